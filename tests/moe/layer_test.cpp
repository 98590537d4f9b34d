// The layer: against the oracle, across devices and batches.
#include <catch2/catch_get_random_seed.hpp>
#include <catch2/catch_test_macros.hpp>
#include <cmath>
#include <cstring>
#include <random>

#include "engine/formats/moe0.h"
#include "engine/moe/numerics.h"
#include "tests/bits.h"
#include "tests/engines.h"
#include "tests/moe/layer_forms.h"
#include "tests/moe/random_layer.h"

using namespace vkmoe;

namespace {

// Drivers take a second and more to compile the kernels of a form: they run one precision of it, by turns; the CPU
// both.
bool takesTurn(Engine& engine, Precision precision, size_t turn) {
    return test::isHost(engine) || (turn % 2 == 0) == (precision == Precision::exact);
}

bool blocksFit(const Description& d) {
    return d.model_dim % 32 == 0 && d.hidden_dim % 32 == 0 && d.shared_dim % 32 == 0;
}

double worstDifference(const std::vector<float>& got, const std::vector<double>& want) {
    double worst = 0;
    for (size_t i = 0; i < got.size(); ++i) worst = std::max(worst, std::fabs(double(got[i]) - want[i]));
    return worst;
}

double largest(const std::vector<double>& values) {
    double m = 0;
    for (double v : values) m = std::max(m, std::fabs(v));
    return m;
}

}  // namespace

TEST_CASE("outputs match a double-precision oracle and are the same bits on every device", "[layer][device][wide]") {
    const std::vector<test::LayerForm> all = test::layerForms();
    for (const test::LayerForm& form : all) {
        for (WeightFormat format : {WeightFormat::f32, WeightFormat::f16, WeightFormat::bf16, WeightFormat::mxfp4}) {
            if (format == WeightFormat::mxfp4 && !blocksFit(form.d)) continue;
            bool even = (&form - all.data()) % 2 == 0;  // the 16-bit formats take turns
            if (format == (even ? WeightFormat::bf16 : WeightFormat::f16)) continue;
            DYNAMIC_SECTION(form.name << ", " << name(format)) {
                test::RandomLayer layer = test::makeRandomLayer(form.d, format, 5);
                auto x = test::randomTokens(37, form.d.model_dim, 6);
                uint32_t bits = operandBits(format, Precision::rounded) % 24;  // f32 is not rounded
                auto oracle = test::referenceForward(layer.reference, x, {bits, bits, bits, bits});
                REQUIRE(oracle.smallest_margin > 1e-6);
                for (Precision precision : {Precision::exact, Precision::rounded}) {
                    std::vector<float> first;
                    for (Engine* engine : test::engines()) {
                        if (!takesTurn(*engine, precision, &form - all.data() + size_t(format))) continue;
                        INFO(engine->device().info().name << ", " << name(precision));
                        Layer loaded = test::loadLayer(*engine, layer.source);
                        auto result = loaded.forward(x, {.precision = precision});
                        REQUIRE(result);
                        CHECK(result->routes.experts == oracle.selected);
                        // exact: 1e-5 of the largest; rounded: besides, what rounding the operands can do
                        double slack = 1e-5 * largest(oracle.output), worst = 0;
                        for (size_t i = 0; i < result->output.size(); ++i) {
                            double off = std::fabs(double(result->output[i]) - oracle.output[i]);
                            double bound = slack + (precision == Precision::rounded ? oracle.bound[i] : 0);
                            worst = std::max(worst, off / bound);
                        }
                        CAPTURE(worst);
                        CHECK(worst <= 1);
                        CHECK(worstDifference(result->routes.gates, oracle.gates) <= 1e-5);
                        if (first.empty()) first = result->output;
                        CHECK(test::sameBits(first, result->output));
                    }
                }
            }
        }
    }
}

namespace {

// Any valid description there is, small enough for the oracle.
Description randomDescription(std::mt19937& random) {
    auto below = [&](uint32_t bound) { return uint32_t(random() % bound); };
    Description d{.model_dim = 32 * (1 + below(3)), .hidden_dim = 32 * (1 + below(3))};
    d.groups = 1u << below(3);
    d.experts = d.groups * (2 + below(9));
    d.groups_kept = 1 + below(d.groups);
    d.group_score = GroupScore(below(2));
    d.top_k = 1 + below(std::min(6u, d.experts / d.groups * d.groups_kept));
    d.score = Score(below(3));
    d.renormalize = below(2);
    d.renormalize_epsilon = below(2) ? 0x1p-20f : 0;
    d.routed_scale = below(2) ? 2.5f : 1;
    d.router_bias = below(2);
    d.selection_bias = below(2);
    d.dispatch = below(4) == 0 ? Dispatch::capacity : Dispatch::dropless;
    d.capacity_factor = 0.5f + 0.25f * float(below(4));
    d.activation = Activation(below(4));
    d.swiglu_limit = 0.5f;
    d.gate_bias = d.gated() && below(2);
    d.up_bias = below(2);
    d.down_bias = below(2);
    d.shared = Shared(below(3));
    d.shared_order = SharedOrder(below(2));
    if (d.shared == Shared::none) return d;
    d.shared_dim = 32 * (1 + below(2));
    d.shared_gate_bias = d.gated() && below(2);
    d.shared_up_bias = below(2);
    d.shared_down_bias = below(2);
    return d;
}

}  // namespace

TEST_CASE("random descriptions match the oracle and have the same bits on every device", "[layer][device][wide]") {
    uint32_t seed = Catch::getSeed(), close_calls = 0;
    std::mt19937 random(seed);
    for (uint32_t round = 0; round < 4; ++round) {
        Description d = randomDescription(random);
        auto format = WeightFormat(random() % 4);
        test::RandomLayer layer = test::makeRandomLayer(d, format, random());
        auto x = test::randomTokens(1 + uint32_t(random() % 40), d.model_dim, random());
        auto oracle = test::referenceForward(layer.reference, x);
        CAPTURE(seed, round, name(format), name(d.score), name(d.activation), name(d.shared), name(d.dispatch),
                d.experts, d.top_k, d.groups);
        bool same_choice = oracle.smallest_margin > 1e-5;
        close_calls += !same_choice;
        std::vector<float> first;
        for (Engine* engine : test::engines()) {
            Layer loaded = test::loadLayer(*engine, layer.source);
            auto result = loaded.forward(x, {.max_batch = uint32_t(random() % 3) * 7});
            if (!result) FAIL(result.error().detail);
            if (same_choice) {
                CHECK(result->routes.experts == oracle.selected);
                CHECK(worstDifference(result->routes.gates, oracle.gates) <=
                      1e-5 * std::max(1.0, largest(oracle.gates)));
                CHECK(worstDifference(result->output, oracle.output) <= 1e-5 * largest(oracle.output));
            }
            if (first.empty()) first = result->output;
            CHECK(test::sameBits(first, result->output));
        }
    }
    CHECK(close_calls <= 3);
}

TEST_CASE("a token's output is the same alone, in any batch, and in any split", "[layer][device][wide]") {
    const std::vector<test::LayerForm> all = test::layerForms();
    for (const test::LayerForm& form : all) {  // capacity: the same call in other batches
        DYNAMIC_SECTION(form.name) {
            test::RandomLayer layer = test::makeRandomLayer(form.d, WeightFormat::f16, 7);
            const uint32_t tokens = 130, D = form.d.model_dim;
            auto x = test::randomTokens(tokens, D, 8);
            for (Engine* engine : test::engines()) {
                for (Precision precision : {Precision::exact, Precision::rounded}) {
                    if (!takesTurn(*engine, precision, size_t(&form - all.data()))) continue;
                    INFO(engine->device().info().name << ", " << name(precision));
                    Layer loaded = test::loadLayer(*engine, layer.source);
                    auto whole = loaded.forward(x, {.precision = precision});
                    REQUIRE(whole);
                    for (uint32_t split : {1u, 7u, 64u, 129u}) {
                        auto parts = loaded.forward(x, {.precision = precision, .max_batch = split});
                        REQUIRE(parts);
                        CHECK(test::sameBits(parts->output, whole->output));
                        CHECK(parts->introspection.load_balance_loss == whole->introspection.load_balance_loss);
                        CHECK(parts->submits == (tokens + split - 1) / split);
                    }
                }
            }
        }
    }
}

TEST_CASE("small scores count in full where a scale makes large gates of them", "[layer][device]") {
    for (Dispatch dispatch : {Dispatch::dropless, Dispatch::capacity}) {
        Description d{.model_dim = 16, .hidden_dim = 8, .experts = 4, .top_k = 2};
        d.score = Score::sigmoid;
        d.router_bias = true;
        d.routed_scale = 0x1p40f;
        d.dispatch = dispatch;
        test::RandomLayer layer = test::makeRandomLayer(d, WeightFormat::f32, 11);
        // Logits of about -30 give scores of about 2^-43.
        const std::vector<float> biases(d.experts, -30);
        layer.reference.router_bias.assign(biases.begin(), biases.end());
        std::vector<std::byte> bytes(layer.source.bytes->size());
        REQUIRE(layer.source.bytes->read(0, bytes));
        std::memcpy(bytes.data() + layer.source.find("router.bias")->offset, biases.data(), biases.size() * 4);
        layer.source.bytes = memorySource("small scores", std::move(bytes));
        auto x = test::randomTokens(9, d.model_dim, 12);
        auto oracle = test::referenceForward(layer.reference, x);
        REQUIRE(largest(oracle.output) > 0.01);
        std::vector<float> first;
        for (Engine* engine : test::engines()) {
            INFO(engine->device().info().name);
            auto result = test::loadLayer(*engine, layer.source).forward(x);
            REQUIRE(result);
            if (first.empty()) first = result->output;
            CHECK(test::sameBits(result->output, first));
        }
        CHECK(worstDifference(first, oracle.output) <= 1e-5 * largest(oracle.output));
    }
}

TEST_CASE("introspection is the same on every device and adds up", "[layer][device]") {
    Description d = test::sharedExpertMoe();
    test::RandomLayer layer = test::makeRandomLayer(d, WeightFormat::f32, 9);
    auto x = test::randomTokens(100, d.model_dim, 10);
    auto oracle = test::referenceForward(layer.reference, x);
    Introspection first;
    for (Engine* engine : test::engines()) {
        INFO(engine->device().info().name);
        Layer loaded = test::loadLayer(*engine, layer.source);
        auto result = loaded.forward(x);
        REQUIRE(result);
        if (first.experts.empty()) first = result->introspection;
        uint64_t tokens = 0;
        double probability = 0;
        for (uint32_t e = 0; e < d.experts; ++e) {
            const ExpertStatistics& s = result->introspection.experts[e];
            CHECK(s.tokens == uint64_t(std::count(oracle.selected.begin(), oracle.selected.end(), e)));
            CHECK(s.mean_gate == first.experts[e].mean_gate);
            CHECK(s.output_rms == first.experts[e].output_rms);
            CHECK(s.quiet_fraction == first.experts[e].quiet_fraction);
            CHECK((s.quiet_fraction > 0.2 && s.quiet_fraction < 0.8));  // relu of a symmetric distribution
            tokens += s.tokens;
            probability += s.mean_probability;
        }
        CHECK(tokens == 100 * d.top_k);
        CHECK(std::fabs(probability - 1) < 1e-5);
        CHECK(result->introspection.load_balance_loss == first.load_balance_loss);
    }
}

TEST_CASE("a forward pass of the default layer is one submit and one wait", "[layer][device]") {
    auto file = formats::initMoe0({}).value();
    auto source = formats::readMoe0(memorySource("default.moe0", file));
    REQUIRE(source);
    auto x = test::randomTokens(256, 64, 1);
    for (Engine* engine : test::engines()) {
        Layer layer = test::loadLayer(*engine, *source);
        auto result = layer.forward(x);
        REQUIRE(result);
        CHECK(result->submits == 1);
        CHECK(result->host_waits == 1);
    }
}

TEST_CASE("no tokens give an empty result", "[layer][device]") {
    test::RandomLayer layer = test::makeRandomLayer(test::sharedExpertMoe(), WeightFormat::f32, 9);
    for (Engine* engine : test::engines()) {
        auto result = test::loadLayer(*engine, layer.source).forward({});
        REQUIRE(result);
        CHECK(result->output.empty());
        CHECK(result->introspection.load_balance_loss == 0);
    }
}

TEST_CASE("a fixed budget may give tokens fewer experts than top_k, or none", "[layer][device]") {
    Description d{.model_dim = 32, .hidden_dim = 16, .experts = 8, .top_k = 4, .score = Score::softmax_selected};
    d.dispatch = Dispatch::fixed_budget;
    d.tokens_per_expert_ratio = 0.01f;
    auto source = test::makeRandomLayer(d, WeightFormat::f32, 5).source;
    auto twice = source, none = source;
    twice.description.routed_scale = 2;
    none.description.tokens_per_expert_ratio = 1e-6f;
    auto x = test::randomTokens(1000, d.model_dim, 6);
    std::vector<float> first;
    for (Engine* engine : test::engines()) {
        auto result = test::loadLayer(*engine, source).forward(x), doubled = test::loadLayer(*engine, twice).forward(x);
        REQUIRE((result && doubled));
        CHECK(result->routes.top_k < d.top_k);
        if (first.empty()) first = result->output;
        CHECK(test::sameBits(first, result->output));
        for (size_t i = 0; i < first.size(); ++i) CHECK(doubled->output[i] == 2 * first[i]);
        auto refused = test::loadLayer(*engine, none).forward(x);
        REQUIRE(!refused);
        CHECK(refused.error().detail.find("leaves no token for any expert") != std::string::npos);
    }
}

TEST_CASE("large outputs have finite statistics", "[layer][device]") {
    auto file = formats::initMoe0({.model_dim = 64, .hidden_dim = 4, .experts = 2, .top_k = 1}).value();
    auto clean = formats::readMoe0(memorySource("x.moe0", file));
    for (const char* name : {"experts.0.down.bias", "experts.1.down.bias"})
        for (uint32_t i = 0; i < 64; ++i) {
            float value = 1e18f;
            std::memcpy(file.data() + clean->find(name)->offset + i * 4, &value, 4);
        }
    auto source = formats::readMoe0(memorySource("x.moe0", file));
    for (Engine* engine : test::engines()) {
        auto result = test::loadLayer(*engine, *source).forward(test::randomTokens(40, 64, 2));
        REQUIRE(result);
        for (const auto& expert : result->introspection.experts)
            if (expert.tokens != 0) CHECK(std::fabs(expert.output_rms / 1e18 - 1) < 1e-5);
    }
}

TEST_CASE("nothing stays allocated", "[layer][device]") {
    for (Engine* engine : test::engines()) {
        {
            test::RandomLayer layer = test::makeRandomLayer(test::mixtral(), WeightFormat::bf16, 9);
            Layer loaded = test::loadLayer(*engine, layer.source);
            CHECK(engine->device().ledger().used() > 0);
            REQUIRE(loaded.forward(test::randomTokens(10, test::mixtral().model_dim, 1)));
        }
        CHECK(engine->device().ledger().used() == 0);
    }
}
