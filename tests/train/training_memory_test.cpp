// Training takes the memory that docs/training.md says, by the formula that stands there.
#include "vkmoe/training_memory.h"

#include <catch2/catch_test_macros.hpp>

#include "engine/formats/evl0.h"
#include "host/file.h"
#include "tests/moe/random_layer.h"
#include "tests/must.h"
#include "vkmoe/engine.h"
#include "vkmoe/layer_trainer.h"
#include "vkmoe/lm_trainer.h"

using namespace vkmoe;
using test::must;

namespace {

// The formula's terms, in words of 4 bytes.
struct Mixture {
    uint64_t D, F, E, k, H, G, s;

    explicit Mixture(const Description& d)
        : D(d.model_dim),
          F(d.hidden_dim),
          E(d.experts),
          k(d.top_k),
          H(d.shared_dim),
          G(d.gated() ? 2 : 1),
          s(d.shared == Shared::none ? 0 : 1) {}

    uint64_t kept() const { return 6 * D + k * (D + (1 + G) * F + 7) + (1 + G) * H + 2 * E + 1; }
    uint64_t gradients() const { return (3 + 2 * s) * D + k * (2 * D + 2 * F + 1) + 2 * H + E + 1; }
};

uint64_t layerBytes(const Description& d, uint64_t tokens) {
    const Mixture m(d);
    return 4 * tokens * (m.kept() + m.gradients() + 4 * m.D + m.E + 16);
}

uint64_t modelBytes(const LmConfig& c, uint64_t tokens, bool recompute) {
    Description d{.model_dim = c.model_dim, .hidden_dim = c.hidden_dim, .experts = c.experts, .top_k = c.top_k};
    d.activation = Activation::relu;
    d.shared = Shared::plain;
    d.shared_dim = c.hidden_dim;
    const Mixture m(d);
    const uint64_t D = c.model_dim, L = c.layers, own = 3 * D + 2 + m.kept(), each = recompute ? D : own;
    return 4 * tokens * (4 * D + c.vocab_size + 18 + own + (L - 1) * each + L * m.k + m.gradients());
}

// Weights, gradients and two moments of f32, in rounded precision bf16 copies.
uint64_t stateBytes(uint64_t parameters, Precision precision) {
    return parameters * (precision == Precision::rounded ? 18 : 16);
}

void checkWithin(double share, uint64_t taken, uint64_t said) {
    CHECK(double(taken) <= (1 + share) * double(said));
    CHECK(double(taken) >= (1 - share) * double(said));
}

void checkLayer(const Description& d, Precision precision) {
    auto layer = test::makeRandomLayer(d, WeightFormat::f32, 1);
    auto x = test::randomTokens(1000, d.model_dim, 2), y = test::randomTokens(1000, d.model_dim, 3);
    const uint64_t matrices = d.gated() ? 3 : 2, width = d.model_dim;
    const uint64_t parameters = d.experts * (matrices * width * d.hidden_dim + width) + matrices * width * d.shared_dim;
    for (uint32_t batch : {1000u, 250u}) {
        auto engine = must(Engine::open({.device = "cpu"}));
        auto trainer = must(LayerTrainer::create(*engine, layer.source, {.precision = precision}));
        must(trainer.epoch(x, y, {.batch_size = batch}));
        TrainingMemory memory = trainer.memory(batch);
        CAPTURE(name(d.shared), name(d.activation), name(precision), d.experts, batch, memory.shown(),
                trainer.peakBytes());
        checkWithin(0.1, trainer.peakBytes(), memory.total());
        checkWithin(0.1, trainer.peakBytes(), stateBytes(parameters, precision) + layerBytes(d, batch));
        checkWithin(0.02, memory.activations, layerBytes(d, batch));
    }
}

}  // namespace

TEST_CASE("training a layer takes the memory that it says", "[train]") {
    const Description few{.model_dim = 96, .hidden_dim = 160, .experts = 6, .top_k = 2};
    const Description many{.model_dim = 48, .hidden_dim = 32, .experts = 64, .top_k = 8};
    for (Description d : {few, many})
        for (Shared shared : {Shared::none, Shared::plain, Shared::sigmoid_gated})
            for (Activation activation : {Activation::relu, Activation::silu_glu})
                for (Precision precision : {Precision::exact, Precision::rounded}) {
                    d.activation = activation;
                    d.shared = shared;
                    d.shared_dim = shared != Shared::none ? 64 : 0;
                    checkLayer(d, precision);
                }
}

TEST_CASE("training a language model takes the memory that it says", "[lm]") {
    LmConfig config{.vocab_size = 1000,
                    .model_dim = 96,
                    .layers = 4,
                    .conv_kernel = 4,
                    .hidden_dim = 192,
                    .experts = 6,
                    .top_k = 2};
    const auto parameters = must(formats::initialLm(config, 5));
    const auto source = must(formats::readEvl0(memorySource("model", must(formats::writeEvl0(config, parameters)))));
    std::vector<std::vector<Sequence>> batch{std::vector<Sequence>(8, Sequence(128, 65))};
    uint64_t kept = 0;
    for (bool recompute : {false, true})
        for (Precision precision : {Precision::exact, Precision::rounded}) {
            auto engine = must(Engine::open({.device = "cpu"}));
            auto trainer = must(LmTrainer::create(
                *engine, source, {.precision = precision, .checkpoint_activations = recompute, .max_tokens = 1024}));
            must(trainer.step(batch));
            TrainingMemory memory = trainer.memory(1024);
            CAPTURE(recompute, name(precision), memory.shown(), trainer.peakBytes());
            checkWithin(0.1, trainer.peakBytes(), memory.total());
            checkWithin(0.1, trainer.peakBytes(),
                        stateBytes(parameters.size(), precision) + modelBytes(config, 1024, recompute));
            checkWithin(0.02, memory.activations, modelBytes(config, 1024, recompute));
            if (!recompute) kept = memory.activations;
            if (recompute) CHECK(memory.activations < kept / 2);
        }
}

TEST_CASE("a model that memory does not hold in training is told what would fit", "[lm]") {
    LmConfig config{
        .vocab_size = 256, .model_dim = 96, .layers = 4, .conv_kernel = 4, .hidden_dim = 192, .experts = 6, .top_k = 2};
    const auto source = must(formats::readEvl0(
        memorySource("model", must(formats::writeEvl0(config, must(formats::initialLm(config, 5)))))));
    auto engine = must(Engine::open(
        {.device = "cpu",
         .device_options = {.clamp = DeviceLimits{.memory_budget = 16 << 20, .max_allocation = 1 << 30}}}));
    auto none = LmTrainer::create(*engine, source, {.max_tokens = 4096});
    REQUIRE_FALSE(none);
    CHECK(none.error().code == ErrorCode::out_of_memory);
    INFO(none.error().detail);
    CHECK(none.error().detail.find("bytes") != std::string::npos);
    auto small = must(
        Engine::open({.device = "cpu",
                      .device_options = {.clamp = DeviceLimits{.memory_budget = 1 << 20, .max_allocation = 1 << 30}}}));
    none = LmTrainer::create(*small, source, {});
    REQUIRE_FALSE(none);
    INFO(none.error().detail);
    CHECK(none.error().detail.find("65536 parameters would fit, or experts in pages") != std::string::npos);
}
