// Description: what a mixture-of-experts layer is, independent of where its weights came from.
//
// Loaders of every format normalise to it. The field names are those of the layer files' metadata.
#pragma once

#include <cstdint>

#include "host/result.h"

namespace vkmoe {
inline namespace v1 {

enum class Score : uint32_t { softmax = 0, softmax_selected = 1, sigmoid = 2 };
enum class GroupScore : uint32_t { max = 0, sum_of_top2 = 1 };
enum class Activation : uint32_t { relu = 0, silu_glu = 1, gelu_glu = 2, clamped_swiglu = 3 };
enum class Shared : uint32_t { none = 0, plain = 1, sigmoid_gated = 2 };
enum class SharedOrder : uint32_t { first = 0, last = 1 };
enum class Dispatch : uint32_t { dropless = 0, capacity = 1, fixed_budget = 2 };
enum class WeightFormat : uint32_t { f32 = 0, f16 = 1, bf16 = 2, mxfp4 = 3 };
enum class Precision : uint32_t { exact = 0, rounded = 1 };

struct Description {
    uint32_t model_dim = 0;   // D: width of a token
    uint32_t hidden_dim = 0;  // F: width of an expert's hidden layer
    uint32_t experts = 0;     // E: routed experts
    uint32_t top_k = 0;       // experts a token goes to, 1..E (with capacity dispatch 1..256 whatever E: padded)

    Score score = Score::softmax;
    bool renormalize = false;  // divide the chosen scores by (their sum + renormalize_epsilon)
    float renormalize_epsilon = 0;  // not of softmax_selected, whose chosen scores are divided by their own sum anyway
    float routed_scale = 1;       // multiplies every gate
    bool router_bias = false;     // added to the logits
    bool selection_bias = false;  // changes who is chosen, not the gate
    uint32_t groups = 1, groups_kept = 1;
    GroupScore group_score = GroupScore::max;

    // capacity: an expert takes at most max(1, ceil(capacity_factor * tokens * top_k / E)) tokens of a call, in token
    // order; a token that finds its experts full takes its next best (entrenar). fixed_budget: zml's approximate
    // dispatch, for comparisons with it only. Both depend on which tokens share the call.
    Dispatch dispatch = Dispatch::dropless;
    float capacity_factor = 1.25f;
    float tokens_per_expert_ratio = 4;
    float noise_std = 0;  // training only: uniform noise in [-noise_std, noise_std) on the logits
    uint32_t noise_seed = 0;  // layer n of a stack draws with noise_seed + n * 0x9e3779b9

    Activation activation = Activation::silu_glu;
    float swiglu_limit = 7, swiglu_alpha = 1.702f;
    bool gate_bias = false, up_bias = false, down_bias = false;

    Shared shared = Shared::none;
    SharedOrder shared_order = SharedOrder::last;
    uint32_t shared_dim = 0;  // S: width of the shared expert's hidden layer
    bool shared_gate_bias = false, shared_up_bias = false, shared_down_bias = false;

    // True where experts have a gate matrix beside up and down.
    bool gated() const { return activation != Activation::relu; }
};

// Checks that the fields agree with each other and that this version runs them; the error names the field and the
// number.
Result<void> validate(const Description& description);

const char* name(Score score);
const char* name(Activation activation);
const char* name(Shared shared);
const char* name(SharedOrder order);
const char* name(WeightFormat format);
const char* name(GroupScore score);
const char* name(Dispatch dispatch);
const char* name(Precision precision);

}  // namespace v1
}  // namespace vkmoe
