// Stacks of layers, and noise: what a call of several layers is made of.
#include "vkmoe/stack.h"

#include <catch2/catch_test_macros.hpp>
#include <cfenv>
#include <cmath>
#include <cstring>

#include "engine/formats/model_source.h"
#include "tests/engines.h"
#include "tests/math/flush_subnormals.h"
#include "tests/moe/random_layer.h"

using namespace vkmoe;

namespace {

formats::ModelSource threeLayers() {
    Description d{.model_dim = 48, .hidden_dim = 40, .experts = 6, .top_k = 2, .renormalize = true};
    formats::ModelSource model;
    model.stack = true;
    for (uint32_t i = 0; i < 3; ++i) {
        d.top_k = 1 + i;
        model.layers.push_back(test::makeRandomLayer(d, WeightFormat::f16, 20 + i).source);
    }
    return model;
}

Stack create(Engine& engine, const formats::ModelSource& model) {
    auto stack = Stack::create(engine, model);
    if (!stack) FAIL(stack.error().detail);
    return std::move(stack).value();
}

}  // namespace

TEST_CASE("a stack adds each layer to its input, with the same bits on every device", "[layer][device]") {
    auto model = threeLayers();
    auto x = test::randomTokens(21, 48, 1);
    std::vector<float> first;
    for (Engine* engine : test::engines()) {
        INFO(engine->device().info().name);
        Stack stack = create(*engine, model);
        auto result = stack.forward(x);
        REQUIRE(result);
        REQUIRE(result->layers.size() == 3);
        auto by_hand = x;
        for (size_t i = 0; i < 3; ++i) {
            auto layer = stack.layers()[i].forward(by_hand);
            REQUIRE(layer);
            CHECK(layer->routes.experts == result->layers[i].routes.experts);
            for (size_t j = 0; j < x.size(); ++j) by_hand[j] += layer->output[j];
        }
        CHECK(std::memcmp(by_hand.data(), result->output.data(), x.size() * 4) == 0);
        if (first.empty()) first = result->output;
        CHECK(std::memcmp(first.data(), result->output.data(), x.size() * 4) == 0);
    }
}

// Routes of fixed_budget and the sums with a layer's input are computed on the caller's thread.
TEST_CASE("how the program around the engine rounds changes no bit", "[layer]") {
    const Description d{.model_dim = 32,
                        .hidden_dim = 16,
                        .experts = 16,
                        .top_k = 2,
                        .score = Score::softmax_selected,
                        .dispatch = Dispatch::fixed_budget,
                        .tokens_per_expert_ratio = 1};
    formats::ModelSource model;
    model.stack = true;
    for (uint32_t i = 0; i < 2; ++i) model.layers.push_back(test::makeRandomLayer(d, WeightFormat::f32, 60 + i).source);
    auto x = test::randomTokens(96, 32, 4);
    for (float& value : x) value *= 0.01f;  // logits whose powers, the keys, are subnormal
    auto engine = Engine::open({.device = "cpu"});
    REQUIRE(engine);
    Stack stack = create(**engine, model);
    auto expected = stack.forward(x);
    REQUIRE(expected);
    REQUIRE(expected->layers[0].routes.top_k > 2);
    for (int rounding : {FE_UPWARD, FE_TOWARDZERO, FE_DOWNWARD}) {
        test::FlushSubnormals flush;
        std::fesetround(rounding);
        auto result = stack.forward(x);
        const bool kept = std::fegetround() == rounding;
        std::fesetround(FE_TONEAREST);
        CHECK(kept);
        REQUIRE(result);
        CHECK(result->layers[0].routes.experts == expected->layers[0].routes.experts);
        CHECK(std::memcmp(result->output.data(), expected->output.data(), x.size() * 4) == 0);
    }
}

TEST_CASE("a stack follows the routes it is given, and names the layer that is wrong", "[layer]") {
    auto model = threeLayers();
    auto engine = Engine::open({.device = "cpu"});
    Stack stack = create(**engine, model);
    auto x = test::randomTokens(5, 48, 1);
    auto free = stack.forward(x);
    REQUIRE(free);
    std::vector<const Routes*> routes;
    for (const auto& layer : free->layers) routes.push_back(&layer.routes);
    auto forced = stack.forward(x, {}, routes);
    REQUIRE(forced);
    CHECK(forced->output == free->output);
    Routes wrong = free->layers[1].routes;
    wrong.experts[3] = 6;
    routes[1] = &wrong;
    auto result = stack.forward(x, {}, routes);
    REQUIRE(!result);
    CHECK(result.error().detail.starts_with("layers.1: the forced routes send token 1 to expert 6"));
    x[7] = NAN;
    result = stack.forward(x);
    REQUIRE(!result);
    CHECK(result.error().detail.starts_with("the input: 1 values are not finite"));
}

TEST_CASE("progress counts the tokens of all layers", "[layer]") {
    auto engine = Engine::open({.device = "cpu"});
    Stack stack = create(**engine, threeLayers());
    std::vector<uint64_t> seen;
    auto x = test::randomTokens(10, 48, 1);
    ForwardOptions options{.max_batch = 5};
    options.progress = [&](uint64_t done, uint64_t all) { return seen.push_back(done), all == 30; };
    REQUIRE(stack.forward(x, options));
    CHECK(seen == std::vector<uint64_t>{15, 30});
}

TEST_CASE("noise moves the logits in training only, by seed, and not by batch", "[layer][device]") {
    Description d{.model_dim = 16, .hidden_dim = 8, .experts = 8, .top_k = 2, .noise_std = 2};
    auto source = test::makeRandomLayer(d, WeightFormat::f32, 3).source;
    d.noise_seed = source.description.noise_seed = 5;
    auto other_seed = source;
    other_seed.description.noise_seed = 6;
    auto x = test::randomTokens(200, 16, 4);
    Routes quiet, noisy;
    for (Engine* engine : test::engines()) {
        INFO(engine->device().info().name);
        auto layer = Layer::create(*engine, source), other = Layer::create(*engine, other_seed);
        REQUIRE((layer && other));
        auto still = layer->forward(x), whole = layer->forward(x, {.training = true});
        auto parts = layer->forward(x, {.training = true, .max_batch = 7}),
             seeded = other->forward(x, {.training = true});
        REQUIRE((still && whole && parts && seeded));
        CHECK(whole->output == parts->output);
        CHECK(whole->routes.experts != still->routes.experts);
        CHECK(whole->routes.experts != seeded->routes.experts);
        if (noisy.experts.empty()) quiet = still->routes, noisy = whole->routes;
        CHECK(noisy.experts == whole->routes.experts);
        CHECK(noisy.gates == whole->routes.gates);
        CHECK(quiet.experts == still->routes.experts);
    }
}

TEST_CASE("layers of a stack draw noise of their own, called together or alone", "[layer][device]") {
    Description d{.model_dim = 16, .hidden_dim = 8, .experts = 8, .top_k = 2, .noise_std = 2};
    formats::ModelSource model;
    model.stack = true;
    auto layer = test::makeRandomLayer(d, WeightFormat::f32, 3).source;
    model.layers = {layer, layer};
    const std::vector<float> zeros(16 * 50);  // logits are the noise alone, and stay so
    std::vector<uint32_t> first;
    for (Engine* engine : test::engines()) {
        INFO(engine->device().info().name);
        Stack stack = create(*engine, model);
        auto together = stack.forward(zeros, {.training = true});
        auto alone = stack.layers()[1].forward(zeros, {.training = true});
        REQUIRE((together && alone));
        CHECK(together->layers[0].routes.experts != together->layers[1].routes.experts);
        CHECK(together->layers[1].routes.experts == alone->routes.experts);
        if (first.empty()) first = alone->routes.experts;
        CHECK(first == alone->routes.experts);
    }
}
