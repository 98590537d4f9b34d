#include "tests/moe/layer_forms.h"

#include "tests/must.h"

using namespace vkmoe;

namespace test {

Description sharedExpertMoe() {
    return {.model_dim = 64,
            .hidden_dim = 128,
            .experts = 8,
            .top_k = 2,
            .score = Score::softmax_selected,
            .activation = Activation::relu,
            .up_bias = true,
            .down_bias = true,
            .shared = Shared::plain,
            .shared_order = SharedOrder::first,
            .shared_dim = 128,
            .shared_up_bias = true,
            .shared_down_bias = true};
}

Description mixtral() {
    return {.model_dim = 48, .hidden_dim = 80, .experts = 6, .top_k = 2, .score = Score::softmax, .renormalize = true};
}

std::vector<LayerForm> layerForms() {
    Description olmoe{.model_dim = 33, .hidden_dim = 17, .experts = 13, .top_k = 5, .score = Score::softmax};
    Description scaled{.model_dim = 40,
                       .hidden_dim = 64,
                       .experts = 20,
                       .top_k = 20,
                       .score = Score::softmax,
                       .renormalize = true,
                       .renormalize_epsilon = 1e-20f,
                       .routed_scale = 2.5f,
                       .gate_bias = true,
                       .up_bias = true,
                       .down_bias = true,
                       .shared = Shared::plain,
                       .shared_order = SharedOrder::last,
                       .shared_dim = 96};
    Description qwen35 = mixtral();
    qwen35.experts = 32;
    qwen35.top_k = 8;
    qwen35.shared = Shared::sigmoid_gated;
    qwen35.shared_dim = 24;
    Description gpt_oss{.model_dim = 64,
                        .hidden_dim = 96,
                        .experts = 8,
                        .top_k = 4,
                        .score = Score::softmax_selected,
                        .router_bias = true,
                        .activation = Activation::clamped_swiglu,
                        .swiglu_limit = 1,
                        .gate_bias = true,
                        .up_bias = true,
                        .down_bias = true};
    Description deepseek_v3{.model_dim = 48,
                            .hidden_dim = 32,
                            .experts = 64,
                            .top_k = 8,
                            .score = Score::sigmoid,
                            .renormalize = true,
                            .renormalize_epsilon = 1e-20f,
                            .routed_scale = 2.5f,
                            .selection_bias = true,
                            .groups = 8,
                            .groups_kept = 4,
                            .group_score = GroupScore::sum_of_top2,
                            .shared = Shared::plain,
                            .shared_dim = 40};
    Description deepseek_v2 = deepseek_v3;
    deepseek_v2.score = Score::softmax;
    deepseek_v2.renormalize = deepseek_v2.selection_bias = false;
    deepseek_v2.groups_kept = 3;
    deepseek_v2.group_score = GroupScore::max;
    deepseek_v2.routed_scale = 16;
    Description entrenar{.model_dim = 24,
                         .hidden_dim = 40,
                         .experts = 6,
                         .top_k = 2,
                         .score = Score::softmax,
                         .renormalize = true,
                         .dispatch = Dispatch::capacity,
                         .capacity_factor = 0.8f,
                         .activation = Activation::relu,
                         .up_bias = true,
                         .down_bias = true};
    Description gelu{.model_dim = 40,
                     .hidden_dim = 56,
                     .experts = 5,
                     .top_k = 3,
                     .score = Score::sigmoid,
                     .selection_bias = true,
                     .activation = Activation::gelu_glu,
                     .up_bias = true,
                     .shared = Shared::sigmoid_gated,
                     .shared_order = SharedOrder::first,
                     .shared_dim = 33,
                     .shared_gate_bias = true};
    return {{"SharedExpertMoE", sharedExpertMoe()},
            {"Mixtral", mixtral()},
            {"OLMoE", olmoe},
            {"scaled with shared last", scaled},
            {"Qwen3.5", qwen35},
            {"GPT-OSS", gpt_oss},
            {"DeepSeek V3", deepseek_v3},
            {"DeepSeek V2", deepseek_v2},
            {"entrenar with overflow", entrenar},
            {"gelu, one bias, gated shared first", gelu}};
}

Layer loadLayer(Engine& engine, const formats::LayerSource& source) { return must(Layer::create(engine, source)); }

}  // namespace test
