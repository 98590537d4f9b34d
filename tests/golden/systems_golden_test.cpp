// Layers of the five systems against their recorded outputs, on every device.
#include <catch2/catch_test_macros.hpp>
#include <cmath>

#include "engine/moe/fixed_budget.h"
#include "tests/engines.h"
#include "tests/golden/systems.h"

using namespace vkmoe;
using namespace tests;
using formats::Nibbles;

namespace {

void checkClose(const std::vector<float>& got, const Json& recorded, double of_largest) {
    auto want = doublesOf(recorded);
    REQUIRE(got.size() == want.size());
    double largest = 0, worst = 0;
    for (size_t i = 0; i < got.size(); ++i) {
        largest = std::max(largest, std::fabs(want[i]));
        worst = std::max(worst, std::fabs(double(got[i]) - want[i]));
    }
    CAPTURE(worst, largest);
    CHECK(worst <= of_largest * largest);
}

Layer open(Engine& engine, const formats::LayerSource& source) {
    auto layer = Layer::create(engine, source);
    if (!layer) FAIL(layer.error().detail);
    return std::move(layer).value();
}

ForwardResult forward(Layer& layer, const std::vector<float>& x, const ForwardOptions& options = {}) {
    auto result = layer.forward(x, options);
    if (!result) FAIL(result.error().detail);
    return std::move(result).value();
}

std::string expert(size_t e, const char* part) { return "experts." + std::to_string(e) + "." + part; }

std::vector<float> part(const std::vector<float>& all, size_t index, size_t size) {
    return {all.begin() + std::ptrdiff_t(index * size), all.begin() + std::ptrdiff_t((index + 1) * size)};
}

// A layer whose logits are its input: experts = model_dim, the identity as router, experts that do nothing.
formats::LayerSource routerAlone(Description d, const std::vector<float>& selection_bias = {}) {
    d.model_dim = d.experts;
    d.hidden_dim = 1;
    d.activation = Activation::relu;
    d.selection_bias = !selection_bias.empty();
    SourceBuilder builder(d);
    uint64_t E = d.experts;
    std::vector<float> identity(E * E);
    for (uint64_t e = 0; e < E; ++e) identity[e * E + e] = 1;
    builder.f32("router.weight", {E, E}, identity);
    if (d.selection_bias) builder.f32("router.selection_bias", {E}, selection_bias);
    for (uint64_t e = 0; e < E; ++e) {
        builder.f32(expert(e, "up.weight"), {1, E}, std::vector<float>(E));
        builder.f32(expert(e, "down.weight"), {E, 1}, std::vector<float>(E));
    }
    return builder.finish();
}

void checkRoutes(const Description& d, const Json& logits, const Json& indices, const Json& weights,
                 const std::vector<float>& selection_bias = {}) {
    auto source = routerAlone(d, selection_bias);
    for (Engine* engine : test::engines()) {
        INFO(engine->device().info().name);
        Layer layer = open(*engine, source);
        auto result = forward(layer, floatsOf(logits));
        CHECK(result.routes.experts == integersOf(indices));
        checkClose(result.routes.gates, weights, 1e-6);
    }
}

Description routerOf(const Json& one) {
    const Json& p = one["params"];
    Description d{.experts = uint32_t(shapeOf(one["logits"])[1]), .top_k = p["k"].get<uint32_t>()};
    auto score = p["score"].get<std::string>();
    d.score = score == "softmax" ? Score::softmax : score == "sigmoid" ? Score::sigmoid : Score::softmax_selected;
    d.renormalize = p.value("renorm", false);
    d.renormalize_epsilon = p.value("renorm_eps", 0.0f);
    d.routed_scale = p.value("scale", 1.0f);
    d.groups = p.value("n_group", 1u);
    d.groups_kept = p.value("topk_group", 1u);
    d.group_score = p.value("group_score", "max") == std::string("max") ? GroupScore::max : GroupScore::sum_of_top2;
    return d;
}

}  // namespace

TEST_CASE("routers of the model families choose and weigh as recorded", "[golden][device]") {
    Json cases = systemCases("routers");
    for (auto& [name, one] : cases.items()) {
        if (!one.contains("params")) continue;
        DYNAMIC_SECTION(name) {
            auto bias = one.contains("e_score_correction_bias") ? floatsOf(one["e_score_correction_bias"])
                                                                : std::vector<float>{};
            checkRoutes(routerOf(one), one["logits"], one["indices"], one["weights"], bias);
        }
    }
    const Json& mask = cases["group_mask_fill"];
    Description d{.experts = 8, .top_k = 2, .score = Score::sigmoid, .renormalize = true, .routed_scale = 2.5f};
    d.groups = 2;
    d.group_score = GroupScore::sum_of_top2;
    const Json& fill = mask["results"]["fill_minus_inf"];  // dropped groups are masked with minus infinity
    checkRoutes(d, mask["logits"], fill["indices"], fill["weights"], floatsOf(mask["bias"]));
    const Json& identity = cases["softmax_topk_renorm_equals_topk_softmax"];
    for (Score score : {Score::softmax, Score::softmax_selected}) {
        Description both{.experts = 16, .top_k = 4, .score = score, .renormalize = true};
        auto source = routerAlone(both);
        Layer layer = open(*test::engines()[0], source);
        checkClose(forward(layer, floatsOf(identity["logits"])).routes.gates, identity["weights"], 1e-6);
    }
}

TEST_CASE("realizar: gated, plain and absent shared experts, wider ones, large and equal logits", "[golden][device]") {
    Json cases = systemCases("sys004");
    for (auto& [name, one] : cases.items()) {
        if (name == "route_nan" || name == "route_minus_inf_masked") continue;  // not finite: an error here
        DYNAMIC_SECTION(name) {
            if (!one.contains("config")) {
                Description d{.experts = uint32_t(shapeOf(one["logits"])[0]), .top_k = one["top_k"].get<uint32_t>()};
                d.renormalize = true;
                checkRoutes(d, one["logits"], one["indices"], one["weights"]);
                continue;
            }
            const Json& c = one["config"];
            uint64_t D = c["hidden"], F = c["moe_intermediate"], S = c["shared_intermediate"], E = c["num_experts"];
            bool shared = c["shared"] != "none", gated = c["shared"] == "gated";
            Description d{.model_dim = uint32_t(D),
                          .hidden_dim = uint32_t(F),
                          .experts = uint32_t(E),
                          .top_k = c["top_k"].get<uint32_t>(),
                          .renormalize = true};
            d.shared = gated ? Shared::sigmoid_gated : shared ? Shared::plain : Shared::none;
            d.shared_dim = shared ? uint32_t(S) : 0;
            SourceBuilder builder(d);
            builder.f32("router.weight", {E, D}, floatsOf(one["gate"]));
            auto gate_up = floatsOf(one["gate_up"]), down = floatsOf(one["down"]);
            for (size_t e = 0; e < E; ++e) {
                builder.f32(expert(e, "gate.weight"), {F, D}, part(gate_up, 2 * e, F * D));
                builder.f32(expert(e, "up.weight"), {F, D}, part(gate_up, 2 * e + 1, F * D));
                builder.f32(expert(e, "down.weight"), {D, F}, part(down, e, D * F));
            }
            if (shared) {
                builder.f32("shared.gate.weight", {S, D}, floatsOf(one["shared_gate"]));
                builder.f32("shared.up.weight", {S, D}, floatsOf(one["shared_up"]));
                builder.f32("shared.down.weight", {D, S}, floatsOf(one["shared_down"]));
            }
            if (gated) builder.f32("shared.router.weight", {D}, floatsOf(one["shared_expert_gate"]));
            auto source = builder.finish();
            for (Engine* engine : test::engines()) {
                Layer layer = open(*engine, source);
                auto result = forward(layer, floatsOf(one["x"]));
                CHECK(result.routes.experts == integersOf(one["indices"]));
                checkClose(result.routes.gates, one["weights"], 1e-6);
                checkClose(result.output, one["output"], 1e-5);
            }
        }
    }
}

namespace {

// entrenar keeps matrices [in, out]; given noise enters as columns of its own, one for each token.
formats::LayerSource entrenarLayer(const Json& one, uint64_t tokens, std::vector<float>& x) {
    const Json& c = one["config"];
    uint64_t D = c["input_dim"], F = c["hidden_dim"], E = c["num_experts"];
    bool noisy = one.contains("noise_uniform");
    uint64_t width = noisy ? D + tokens : D;
    Description d{.model_dim = uint32_t(width),
                  .hidden_dim = uint32_t(F),
                  .experts = uint32_t(E),
                  .top_k = c["top_k"].get<uint32_t>(),
                  .renormalize = true,
                  .dispatch = Dispatch::capacity,
                  .capacity_factor = c["capacity_factor"].get<float>(),
                  .activation = Activation::relu};
    d.up_bias = d.down_bias = true;
    SourceBuilder builder(d);
    auto widened = [&](const std::vector<float>& rows, uint64_t count) {  // [count, D] to [count, width]
        std::vector<float> out(count * width);
        for (uint64_t r = 0; r < count; ++r)
            for (uint64_t k = 0; k < D; ++k) out[r * width + k] = rows[r * D + k];
        return out;
    };
    auto router = widened(transposed(floatsOf(one["params"]["gate_weight"]), D, E), E);
    x = widened(floatsOf(one["x"]), tokens);
    for (uint64_t t = 0; noisy && t < tokens; ++t) {
        x[t * width + D + t] = 1;
        auto noise = floatsOf(one["noise_uniform"]);
        for (uint64_t e = 0; e < E; ++e) router[e * width + D + t] = noise[t * E + e] * one["noise_std"].get<float>();
    }
    builder.f32("router.weight", {E, width}, router);
    for (size_t e = 0; e < E; ++e) {
        const Json& p = one["params"]["experts"][e];
        builder.f32(expert(e, "up.weight"), {F, width}, widened(transposed(floatsOf(p["w1"]), D, F), F));
        builder.f32(expert(e, "up.bias"), {F}, floatsOf(p["b1"]));
        auto down = transposed(floatsOf(p["w2"]), F, D), bias = floatsOf(p["b2"]);
        down.resize(width * F);
        bias.resize(width);
        builder.f32(expert(e, "down.weight"), {width, F}, down);
        builder.f32(expert(e, "down.bias"), {width}, bias);
    }
    return builder.finish();
}

}  // namespace

TEST_CASE("entrenar: capacity, next best, padding, given noise, more choices than experts", "[golden][device]") {
    Json cases = systemCases("sys003");
    for (auto& [name, one] : cases.items()) {
        if (!one.contains("config")) continue;
        DYNAMIC_SECTION(name) {
            uint64_t D = one["config"]["input_dim"], tokens = shapeOf(one["x"])[0];
            std::vector<float> x;
            auto source = entrenarLayer(one, tokens, x);
            for (Engine* engine : test::engines()) {
                Layer layer = open(*engine, source);
                for (uint32_t max_batch : {0u, 1u, 3u}) {
                    auto result = forward(layer, x, {.max_batch = max_batch});
                    CHECK(result.routes.experts == integersOf(one["indices"]));
                    checkClose(result.routes.gates, one["weights"], 1e-6);
                    std::vector<float> output;
                    for (uint64_t t = 0; t < tokens; ++t)
                        for (uint64_t k = 0; k < D; ++k)
                            output.push_back(result.output[t * source.description.model_dim + k]);
                    checkClose(output, one["output"], 1e-5);
                    CHECK(std::fabs(result.introspection.load_balance_loss - one["balance_loss"].get<double>()) < 1e-6);
                    std::vector<uint64_t> ran(source.description.experts);  // padding does not
                    const auto gates = floatsOf(one["weights"]);
                    for (size_t a = 0; a < gates.size(); ++a) ran[result.routes.experts[a]] += gates[a] > 0;
                    for (size_t e = 0; e < ran.size(); ++e) CHECK(result.introspection.experts[e].tokens == ran[e]);
                }
            }
        }
    }
}

namespace {

formats::LayerSource gptOssLayer(const Json& one, Dispatch dispatch, float ratio, Nibbles nibbles) {
    const Json& c = one["config"];
    uint64_t D = c["hidden"], F = c["intermediate"], E = c["num_experts"];
    Description d{.model_dim = uint32_t(D),
                  .hidden_dim = uint32_t(F),
                  .experts = uint32_t(E),
                  .top_k = c["experts_per_token"].get<uint32_t>(),
                  .score = Score::softmax_selected,
                  .router_bias = true,
                  .dispatch = dispatch,
                  .tokens_per_expert_ratio = ratio,
                  .activation = Activation::clamped_swiglu};
    d.gate_bias = d.up_bias = d.down_bias = true;
    SourceBuilder builder(d);
    builder.f32("router.weight", {E, D}, floatsOf(one["router"]));
    builder.f32("router.bias", {E}, floatsOf(one["router_b"]));
    auto bytes = [&](const char* key, size_t e) {
        auto all = bytesOf(one[key]);
        size_t size = all.size() / E;
        std::vector<std::byte> out(all.begin() + std::ptrdiff_t(e * size),
                                   all.begin() + std::ptrdiff_t((e + 1) * size));
        if (nibbles == Nibbles::adjacent || out.size() % 16 != 0 || std::string(key).ends_with("scales")) return out;
        for (size_t block = 0; block < out.size(); block += 16) {  // ggml's order of the same codes
            std::byte from[16];
            std::copy_n(out.begin() + std::ptrdiff_t(block), 16, from);
            auto code = [&](size_t i) { return uint32_t(from[i / 2]) >> (i % 2 * 4) & 15u; };
            for (size_t j = 0; j < 16; ++j) out[block + j] = std::byte(code(j) | code(j + 16) << 4);
        }
        return out;
    };
    auto fused_bias = floatsOf(one["gate_up_bias"]), down_bias = floatsOf(one["down_bias"]);
    for (size_t e = 0; e < E; ++e) {
        for (uint32_t up : {0u, 1u}) {  // even rows are the gate's, odd rows up's
            const char* name = up ? "up" : "gate";
            builder.mxfp4(expert(e, name) + ".weight", F, D, bytes("gate_up_blocks", e), bytes("gate_up_scales", e),
                          nibbles, up, 2);
            std::vector<float> bias;
            for (uint64_t f = 0; f < F; ++f) bias.push_back(fused_bias[(e * F + f) * 2 + up]);
            builder.f32(expert(e, name) + ".bias", {F}, bias);
        }
        builder.mxfp4(expert(e, "down.weight"), D, F, bytes("down_blocks", e), bytes("down_scales", e), nibbles);
        builder.f32(expert(e, "down.bias"), {D}, part(down_bias, e, D));
    }
    return builder.finish();
}

}  // namespace

TEST_CASE("GPT-OSS: MXFP4 in both nibble layouts, interleaved gate and up, clamped activation", "[golden][device]") {
    Json cases = systemCases("sys002");
    for (const char* name : {"mxfp4_layer", "mxfp4_layer_k4"}) {
        const Json& one = cases[name];
        for (Nibbles nibbles : {Nibbles::adjacent, Nibbles::halves}) {
            auto source = gptOssLayer(one, Dispatch::dropless, 4, nibbles);
            std::vector<float> first[2];
            for (Engine* engine : test::engines()) {
                Layer layer = open(*engine, source);
                for (Precision precision : {Precision::exact, Precision::rounded}) {
                    auto result = forward(layer, floatsOf(one["x"]), {.precision = precision});
                    CHECK(result.routes.experts == integersOf(one["indices"]));
                    checkClose(result.routes.gates, one["scores"], 1e-6);
                    checkClose(result.output, one["output_exact"], 1e-5);
                    auto& same = first[size_t(precision)];
                    if (same.empty()) same = result.output;
                    CHECK(same == result.output);
                }
            }
        }
    }
}

TEST_CASE("zml's fixed budget, where it is asked for", "[golden][device]") {
    Json cases = systemCases("sys002");
    const Json& one = cases["mxfp4_layer"];
    for (auto& [name, budget] : one["fixed_budget"].items()) {
        auto ratio = budget["tokens_per_expert_ratio"].get<float>();
        auto source = gptOssLayer(one, Dispatch::fixed_budget, ratio, Nibbles::adjacent);
        CHECK(tokensPerExpert(source.description, 24) == budget["tokens_per_expert"].get<uint32_t>());
        for (Engine* engine : test::engines()) {
            Layer layer = open(*engine, source);
            for (uint32_t max_batch : {0u, 5u}) {
                auto result = forward(layer, floatsOf(one["x"]), {.max_batch = max_batch});
                checkClose(result.output, budget["output"], 1e-5);
                auto routing = doublesOf(budget["routing"]);  // [tokens, experts], also where nothing was taken
                for (size_t a = 0; a < result.routes.experts.size(); ++a) {
                    uint32_t e = result.routes.experts[a];
                    if (e == kNoExpert) continue;
                    double want = routing[a / result.routes.top_k * 8 + e];
                    CHECK(std::fabs(double(result.routes.gates[a]) - want) < 1e-6);
                }
            }
        }
    }
    for (const Json& row : cases["algorithm_choice"]["table"]) {
        if (row["ratio"].is_null() || row["ratio"] == 0.0) continue;
        Description d{.experts = row["E"], .top_k = row["k"], .tokens_per_expert_ratio = row["ratio"].get<float>()};
        auto budget = tokensPerExpert(d, row["T"].get<uint64_t>());
        CAPTURE(row.dump());
        CHECK(budget.has_value() == (row["algorithm"] == "fixed_budget"));
        if (budget) CHECK(*budget == row["tokens_per_expert"].get<uint32_t>());
    }
}

namespace {

void checkPool(const PoolIntrospection& pool, const Json& want) {
    auto tokens = integersOf(want["tokens_processed"]);
    auto magnitude = doublesOf(want["avg_output_magnitude"]), sparsity = doublesOf(want["avg_activation_sparsity"]);
    for (size_t e = 0; e < tokens.size(); ++e) {
        CHECK(pool.experts[e].tokens_processed == tokens[e]);
        CHECK(std::fabs(pool.experts[e].avg_output_magnitude - magnitude[e]) < 1e-6);
        CHECK(std::fabs(pool.experts[e].avg_activation_sparsity - sparsity[e]) < 1e-9);
        CHECK(pool.experts[e].specialization_score == 0);
    }
    CHECK(pool.top_contributors == integersOf(want["top_contributors"]));
    CHECK(pool.total_tokens == want["total_tokens"].get<uint64_t>());
    CHECK(std::fabs(pool.activation_sparsity - want["activation_sparsity"].get<double>()) < 1e-12);
}

// Rows longer than top_k: what is not there changes nothing, and what is listed twice counts twice.
void checkAnyWidth(Layer& layer, const std::vector<float>& x, const Routes& routes) {
    const uint32_t experts = layer.description().experts;
    const size_t tokens = routes.experts.size() / routes.top_k;
    Routes wide{routes.top_k + experts, {}, {}}, once{experts, {}, {}}, twice{2 * experts, {}, {}};
    for (size_t t = 0; t < tokens; ++t) {
        for (uint32_t i = 0; i < wide.top_k; ++i) {
            wide.experts.push_back(i < routes.top_k ? routes.experts[t * routes.top_k + i] : kNoExpert);
            wide.gates.push_back(i < routes.top_k ? routes.gates[t * routes.top_k + i] : 0);
        }
        for (uint32_t i = 0; i < experts; ++i) once.experts.push_back(i);
        for (uint32_t i = 0; i < 2 * experts; ++i) twice.experts.push_back(i % experts);
    }
    once.gates.resize(once.experts.size(), 0.5f);
    twice.gates.resize(twice.experts.size(), 0.25f);
    auto run = [&](const Routes& r) { return forward(layer, x, {.forced_routes = &r, .pool_routes = true}).output; };
    CHECK(run(wide) == run(routes));
    auto expected = run(once), got = run(twice);
    double largest = 0, off = 0;
    for (size_t i = 0; i < got.size(); ++i) {
        largest = std::max(largest, double(std::fabs(expected[i])));
        off = std::max(off, double(std::fabs(expected[i] - got[i])));
    }
    CHECK(off <= 1e-6 * largest);
    const Routes none{kMostPoolWidth + 1, std::vector<uint32_t>(tokens * (kMostPoolWidth + 1), kNoExpert),
                      std::vector<float>(tokens * (kMostPoolWidth + 1))};
    CHECK_FALSE(layer.forward(x, {.forced_routes = &none, .pool_routes = true}));
}

}  // namespace

TEST_CASE("titan-synapse: an expert pool with given routes, and its running statistics", "[golden][device]") {
    Json one = systemCases("sys001")["expert_pool"];
    const Json& c = one["config"];
    uint64_t D = c["d_model"], F = c["d_expert"], E = c["n_experts"];
    Description d{.model_dim = uint32_t(D),
                  .hidden_dim = uint32_t(F),
                  .experts = uint32_t(E),
                  .top_k = c["top_k"].get<uint32_t>()};
    SourceBuilder builder(d);
    builder.f32("router.weight", {E, D}, std::vector<float>(E * D));
    for (size_t e = 0; e < E; ++e) {
        builder.f32(expert(e, "gate.weight"), {F, D}, floatsOf(one["experts"][e]["w_gate"]));
        builder.f32(expert(e, "up.weight"), {F, D}, floatsOf(one["experts"][e]["w_up"]));
        builder.f32(expert(e, "down.weight"), {D, F}, floatsOf(one["experts"][e]["w_down"]));
    }
    auto source = builder.finish();
    auto x = floatsOf(one["x"]);
    Routes all{d.top_k, integersOf(one["indices"]), floatsOf(one["weights"])}, half = all;
    half.experts.resize(all.experts.size() / 2);  // the second call repeats batch row 0
    half.gates.resize(all.gates.size() / 2);
    for (Engine* engine : test::engines()) {
        Layer layer = open(*engine, source);
        REQUIRE(!layer.forward(x, {.forced_routes = &all}));  // an expert that does not exist, but in a pool
        auto result = forward(layer, x, {.forced_routes = &all, .pool_routes = true});
        checkClose(result.output, one["output"], 1e-5);
        checkPool(result.introspection.pool, one["introspection"]);
        x.resize(x.size() / 2);
        result = forward(layer, x, {.forced_routes = &half, .pool_routes = true, .max_batch = 1});
        checkClose(result.output, one["output_second_call"], 1e-5);
        checkPool(result.introspection.pool, one["introspection_second_call"]);
        layer.pool().setNames({"language", "code"});
        layer.pool().reset();
        auto pool = layer.pool().introspect();
        CHECK(pool.experts[1].name == "code");
        CHECK(pool.experts[2].name == "?");
        CHECK(pool.experts[0].tokens_processed == 0);
        CHECK(pool.activation_sparsity == 1);
        x = floatsOf(one["x"]);
        checkAnyWidth(layer, x, all);
    }
}

TEST_CASE("SharedExpertMoE: shared expert first, softmax of the selected", "[golden][device]") {
    Json cases = systemCases("sys000");
    for (auto& [name, one] : cases.items()) {
        if (!one.contains("config")) continue;
        DYNAMIC_SECTION(name) {
            const Json &c = one["config"], &p = one["params"];
            uint64_t D = c["modelDim"], F = c["hiddenDim"], E = c["numExperts"];
            Description d{.model_dim = uint32_t(D),
                          .hidden_dim = uint32_t(F),
                          .experts = uint32_t(E),
                          .top_k = c["topK"].get<uint32_t>(),
                          .score = Score::softmax_selected,
                          .activation = Activation::relu,
                          .shared = Shared::plain,
                          .shared_order = SharedOrder::first};
            d.shared_dim = uint32_t(F);
            d.up_bias = d.down_bias = d.shared_up_bias = d.shared_down_bias = true;
            SourceBuilder builder(d);
            builder.f32("router.weight", {E, D}, floatsOf(p["wr"]));
            for (size_t e = 0; e <= E; ++e) {
                const Json& from = e < E ? p["experts"][e] : p["shared"];
                std::string prefix = e < E ? "experts." + std::to_string(e) : "shared";
                builder.f32(prefix + ".up.weight", {F, D}, floatsOf(from["w1"]));
                builder.f32(prefix + ".up.bias", {F}, floatsOf(from["b1"]));
                builder.f32(prefix + ".down.weight", {D, F}, floatsOf(from["w2"]));
                builder.f32(prefix + ".down.bias", {D}, floatsOf(from["b2"]));
            }
            auto source = builder.finish();
            for (Engine* engine : test::engines()) {
                Layer layer = open(*engine, source);
                auto result = forward(layer, floatsOf(one["x"]));
                CHECK(result.routes.experts == integersOf(one["indices"]));
                checkClose(result.routes.gates, one["gates"], 1e-6);
                checkClose(result.output, one["output"], 1e-5);
                CHECK(std::fabs(result.introspection.load_balance_loss - one["lb_loss"].get<double>()) < 1e-6);
            }
        }
    }
}
