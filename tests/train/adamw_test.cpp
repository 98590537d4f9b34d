// AdamW against recorded steps of the reference engine, and against the textbook in double over a long run.
#include <catch2/catch_test_macros.hpp>
#include <cmath>
#include <random>

#include "tests/engines.h"
#include "tests/golden/golden.h"
#include "tests/train/trained.h"

using namespace vkmoe;
using test::Trained;

namespace {

const std::vector<std::vector<uint32_t>> kGoldenShape = {{7, 5}, {1}};

std::vector<float> goldenTensors(uint32_t seed, float factor) {
    std::vector<float> all;
    for (uint32_t t = 0; t < 3; ++t)
        for (float x : test::sequence(seed + t, std::vector{7u, 5u, 1u}[t])) all.push_back(x * factor);
    return all;
}

struct Variant {
    const char* name;
    AdamwOptions options;
    Shard shard;
    uint64_t state_bytes;
};

const Variant kVariants[] = {
    {"defaults", {}, {}, 104},
    {"decay", {.learning_rate = 0.05, .weight_decay = 0.1}, {}, 104},
    {"betas", {.learning_rate = 0.001, .beta1 = 0.5, .beta2 = 0.75, .epsilon = 0.001}, {}, 104},
    {"shard0of2", {}, {0, 2}, 64},
    {"shard1of2", {}, {1, 2}, 40},
};

// The largest distance, as a fraction of the largest magnitude.
double distance(const std::vector<float>& got, const std::vector<double>& wanted) {
    double far = 0, large = 0;
    for (size_t i = 0; i < got.size(); ++i) {
        far = std::max(far, std::abs(double(got[i]) - wanted[i]));
        large = std::max(large, std::abs(wanted[i]));
    }
    return far / large;
}

// AdamW as the paper has it, all in double.
struct Textbook {
    AdamwOptions o;
    std::vector<double> w, m, v;
    int t = 0;

    void step(const std::vector<float>& grads) {
        ++t;
        for (size_t i = 0; i < w.size(); ++i) {
            double g = double(grads[i]);
            m[i] = o.beta1 * m[i] + (1 - o.beta1) * g;
            v[i] = o.beta2 * v[i] + (1 - o.beta2) * g * g;
            double mean = m[i] / (1 - std::pow(o.beta1, t)), square = v[i] / (1 - std::pow(o.beta2, t));
            w[i] -= o.learning_rate * (mean / (std::sqrt(square) + o.epsilon) + o.weight_decay * w[i]);
        }
    }
};

}  // namespace

TEST_CASE("AdamW makes the reference engine's steps", "[optimizer][golden][device]") {
    const tests::Golden golden("adamw");
    for (Engine* engine : test::engines())
        for (const Variant& variant : kVariants) {
            CAPTURE(engine->device().info().name, variant.name);
            Trained trained(*engine, {.slabs = kGoldenShape, .shard = variant.shard}, goldenTensors(501, 1));
            CHECK(trained.set().stateBytes() == variant.state_bytes);
            auto recorded = golden.f32(std::string(variant.name) + ":params_per_step");
            REQUIRE(recorded.size() == 12 * 13);
            double worst = 0;
            for (uint32_t s = 0; s < 12; ++s) {
                trained.setGrads(goldenTensors(510 + 17 * s, s == 3 || s == 7 ? 0 : s == 5 ? 0x1p-60f : 1));
                REQUIRE(trained.step(variant.options));
                std::vector<double> wanted(recorded.begin() + s * 13, recorded.begin() + s * 13 + 13);
                worst = std::max(worst, distance(trained.weights(), wanted));
            }
            CAPTURE(worst);
            CHECK(worst <= 3e-7);  // 1.5e-7 was measured
        }
}

TEST_CASE("a thousand steps of AdamW stay with those in double", "[optimizer]") {
    auto engine = Engine::open({.device = "cpu"});
    REQUIRE(engine);
    const size_t count = 257;
    for (double decay : {0.0, 0.01}) {
        const uint32_t seed = decay == 0 ? 1 : 2;
        CAPTURE(seed);
        std::mt19937 random(seed);
        std::normal_distribution<float> normal;
        AdamwOptions options{.learning_rate = 0.003, .weight_decay = decay};
        std::vector<float> weights(count), grads(count);
        for (float& w : weights) w = normal(random);
        Textbook textbook{
            options, {weights.begin(), weights.end()}, std::vector<double>(count), std::vector<double>(count)};
        Trained trained(**engine, {.slabs = {{200, 57}}}, weights);
        for (int step = 0; step < 1000; ++step) {
            for (size_t i = 0; i < count; ++i)  // each element of a size of its own, with a drift
                grads[i] = std::ldexp(normal(random) + 0.3f, -int(i % 16));
            textbook.step(grads);
            trained.setGrads(grads);
            REQUIRE(trained.step(options));
        }
        CAPTURE(distance(trained.weights(), textbook.w));
        CHECK(distance(trained.weights(), textbook.w) <=
              1000 * 0x1p-25);  // every rounding one way; 1.6e-6 was measured
        CHECK(trained.set().step() == 1000);
    }
}

TEST_CASE("a weight without gradient and moments stays, unless it decays", "[optimizer][device]") {
    std::vector<float> weights = {1, -0.3f, 0x1p-39f, 0x1p-60f, -0x1p-99f, 0, 2};  // two too small for an operand
    for (Engine* engine : test::engines()) {
        CAPTURE(engine->device().info().name);
        Trained still(*engine, {.slabs = {{7}}}, weights), decaying(*engine, {.slabs = {{7}}}, weights);
        REQUIRE(still.step({}));
        CHECK(test::sameBits(still.weights(), weights));
        REQUIRE(decaying.step({.learning_rate = 0.5, .weight_decay = 0.5}));
        CHECK(decaying.weights() ==
              std::vector<float>{0.75f, -0.3f - 0.5f * (0.5f * -0.3f), 0.75f * 0x1p-39f, 0, -0x1p-99f, 0, 1.5f});
    }
}
