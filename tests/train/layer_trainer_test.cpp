// Layers that learn, on every device: gradients and training runs of the reference engine, gradients of any description
// against the oracle, and the same bits everywhere.
#include "vkmoe/layer_trainer.h"

#include <catch2/catch_test_macros.hpp>
#include <random>

#include "engine/formats/moe0.h"
#include "tests/engines.h"
#include "tests/moe/random_layer.h"
#include "tests/must.h"
#include "tests/train/golden_checks.h"

using namespace vkmoe;
using test::must;
using test::NamedTensors;

namespace {

formats::LayerSource sourceOf(const test::Golden& golden) {
    test::MoeShape shape = test::moeShapeOf(golden);
    auto bytes =
        formats::writeMoe0({shape.model_dim, shape.hidden_dim, shape.experts, shape.top_k}, test::startOf(golden));
    REQUIRE(bytes);
    auto source = formats::readMoe0(memorySource(golden.name(), std::move(*bytes)));
    REQUIRE(source);
    return std::move(*source);
}

NamedTensors tensorsOf(const formats::LayerSource& source) {
    NamedTensors tensors;
    for (const auto& tensor : source.tensors) {
        std::vector<float>& values = tensors[tensor.name];
        values.resize(tensor.bytes / 4);
        REQUIRE(source.bytes->read(tensor.offset, std::as_writable_bytes(std::span(values))));
    }
    return tensors;
}

LayerTrainerOptions optionsOf(const test::LayerTrainOptions& run) {
    LayerTrainerOptions options;
    options.adamw.learning_rate = run.adamw.lr;
    options.adamw.beta1 = run.adamw.beta1;
    options.adamw.beta2 = run.adamw.beta2;
    options.adamw.epsilon = run.adamw.eps;
    options.adamw.weight_decay = run.adamw.weight_decay;
    options.aux_weight = float(run.aux_weight);
    return options;
}

struct Run {
    std::vector<double> losses, aux_losses;
    NamedTensors weights;
};

Run train(Engine& engine, const formats::LayerSource& source, const LayerTrainerOptions& options,
          std::span<const float> inputs, std::span<const float> targets, uint32_t epochs, uint32_t batch) {
    auto trainer = must(LayerTrainer::create(engine, source, options));
    Run run;
    for (uint32_t epoch = 0; epoch < epochs; ++epoch) {
        auto result = must(trainer.epoch(inputs, targets, {.batch_size = batch}));
        run.losses.push_back(result.loss);
        run.aux_losses.push_back(result.aux_loss);
    }
    run.weights = tensorsOf(must(trainer.weights()));
    return run;
}

}  // namespace

TEST_CASE("a layer's gradients are the reference engine's", "[train][golden][device][wide]") {
    for (const std::string& name : test::Golden::cases("moe/")) {
        test::Golden golden(name);
        if (name == "moe/large") continue;
        formats::LayerSource source = sourceOf(golden);
        for (Engine* engine : test::engines()) {
            CAPTURE(name, engine->device().info().name);
            auto trainer = must(LayerTrainer::create(*engine, source));
            auto result = must(trainer.backward(golden.f32("input"), golden.f32("dOutput")));
            test::checkGradients(golden, tensorsOf(result.gradients), result.input);
        }
    }
}

TEST_CASE("layers train as the reference engine's do, with the same bits on every device",
          "[train][golden][device][curves]") {
    for (const std::string& name : test::Golden::cases("moe/")) {
        test::Golden golden(name);
        if (name == "moe/large") continue;
        formats::LayerSource source = sourceOf(golden);
        for (const char* run : {"train_full", "train_mini"}) {
            if (!golden.has(std::string(run) + ":loss")) continue;
            auto options = test::trainOptionsOf(golden, run);
            std::optional<Run> first;
            for (Engine* engine : test::engines()) {
                CAPTURE(name, run, engine->device().info().name);
                Run got = train(*engine, source, optionsOf(options), golden.f32("train:input"),
                                golden.f32("train:target"), options.epochs, options.batch);
                if (!first) {
                    test::checkTraining(golden, run, got.losses, got.aux_losses, got.weights);
                    first = std::move(got);
                    continue;
                }
                CHECK(got.losses == first->losses);
                CHECK(got.weights == first->weights);
            }
        }
    }
}

TEST_CASE("gradients of any description are the oracle's", "[train][device][wide]") {
    std::mt19937 random(20261121);
    for (uint32_t seed = 0; seed < 24; ++seed) {
        Description d;
        d.model_dim = 5 + random() % 40;
        d.hidden_dim = 3 + random() % 50;
        d.experts = 2 + random() % 9;
        d.top_k = 1 + random() % std::min(4u, d.experts);
        d.activation = Activation(seed % 4);
        d.score = Score(seed / 4 % 3);
        d.renormalize = d.score != Score::softmax_selected && random() % 2;
        d.routed_scale = random() % 2 ? 2.5f : 1.0f;
        d.router_bias = random() % 2;
        d.selection_bias = random() % 2;
        d.gate_bias = d.gated() && random() % 2;
        d.up_bias = random() % 2;
        d.down_bias = random() % 2;
        d.shared = Shared(seed % 3);
        d.shared_order = SharedOrder(random() % 2);
        if (d.shared != Shared::none) {
            d.shared_dim = 3 + random() % 40;
            d.shared_gate_bias = d.gated() && random() % 2;
            d.shared_up_bias = random() % 2;
            d.shared_down_bias = random() % 2;
        }
        auto layer = test::makeRandomLayer(d, WeightFormat::f32, seed);
        uint32_t tokens = 1 + random() % 90;
        auto x = test::randomTokens(tokens, d.model_dim, seed + 1000);
        auto grad_out = test::randomTokens(tokens, d.model_dim, seed + 2000);
        auto forward = test::oracleForward(layer.reference, test::widened(x));
        auto want = test::oracleBackward(layer.reference, forward, test::widened(grad_out));
        NamedTensors wanted = test::narrowed(test::parametersOf(want.parameters));
        NamedTensors first;
        for (Engine* engine : test::engines()) {
            if (engine->device().info().type != DeviceType::cpu && seed % 7 != 0) continue;  // pipelines take seconds
            CAPTURE(seed, tokens, engine->device().info().name, name(d.score), name(d.activation), name(d.shared));
            auto trainer = must(LayerTrainer::create(*engine, layer.source));
            auto got = must(trainer.backward(x, grad_out));
            NamedTensors tensors = tensorsOf(got.gradients);
            tensors["input"] = got.input;
            if (!first.empty()) {
                CHECK(tensors == first);
                continue;
            }
            first = tensors;
            CHECK(test::worstDifference(got.input, test::narrowed(want.x)) <=
                  4e-6 * test::largestOf(test::narrowed(want.x)));
            for (const auto& [tensor, values] : wanted) {
                CAPTURE(tensor);
                REQUIRE(tensors.count(tensor) == 1);
                CHECK(test::worstDifference(tensors[tensor], values) <= 4e-6 * test::largestOf(values) + 1e-9);
            }
        }
    }
}

TEST_CASE("a batch in chunks gives the bits of a whole one", "[train][device][wide]") {
    for (uint32_t seed = 0; seed < 3; ++seed) {
        Description d{.model_dim = 20, .hidden_dim = 24, .experts = 5, .top_k = 2};
        d.score = Score::softmax_selected;
        d.router_bias = d.up_bias = d.down_bias = true;
        d.shared = Shared(seed);
        if (d.shared != Shared::none) d.shared_dim = 12, d.shared_up_bias = true;
        auto layer = test::makeRandomLayer(d, WeightFormat::f32, seed + 40);
        auto x = test::randomTokens(203, d.model_dim, 41), y = test::randomTokens(203, d.model_dim, 42);
        for (Engine* engine : test::engines()) {
            std::optional<Run> whole;
            for (uint32_t chunk : {0u, 203u, 202u, 100u, 32u, 7u}) {
                if (seed != 1 && chunk != 0 && chunk != 100) continue;
                CAPTURE(seed, chunk, engine->device().info().name);
                LayerTrainerOptions options{.z_weight = 0.01f, .max_chunk = chunk};
                Run got = train(*engine, layer.source, options, x, y, 2, 0);
                if (!whole) whole = got;
                CHECK(got.losses == whole->losses);
                CHECK(got.weights == whole->weights);
            }
        }
    }
}

TEST_CASE("an expert may have as many slots as a pass has tokens", "[train][device][wide]") {
    Description d{.model_dim = 8, .hidden_dim = 8, .experts = 1, .top_k = 1};
    d.router_bias = d.up_bias = d.down_bias = true;
    auto layer = test::makeRandomLayer(d, WeightFormat::f32, 3);
    auto x = test::randomTokens(13001, 8, 4),
         y = test::randomTokens(13001, 8, 5);  // two chunks, the first a whole pass
    std::optional<NamedTensors> first;
    for (Engine* engine : test::engines()) {
        CAPTURE(engine->device().info().name);
        auto trainer = must(LayerTrainer::create(*engine, layer.source));
        auto tensors = tensorsOf(must(trainer.backward(x, y)).gradients);
        if (!first) first = tensors;
        CHECK(tensors == *first);
    }
}

TEST_CASE("200 steps of a layer end in the same weights on every device, in both precisions", "[train][device][wide]") {
    Description d;
    d.model_dim = 24;
    d.hidden_dim = 40;
    d.experts = 6;
    d.top_k = 2;
    d.score = Score::softmax_selected;
    d.activation = Activation::silu_glu;
    d.shared = Shared::plain;
    d.shared_dim = 16;
    auto layer = test::makeRandomLayer(d, WeightFormat::f32, 7);
    auto x = test::randomTokens(45, d.model_dim, 8), y = test::randomTokens(45, d.model_dim, 9);
    for (Precision precision : {Precision::exact, Precision::rounded}) {
        std::optional<Run> first;
        for (Engine* engine : test::engines()) {
            CAPTURE(name(precision), engine->device().info().name);
            LayerTrainerOptions options{.precision = precision, .z_weight = 0.001f};
            options.adamw.max_norm = 1;
            Run got = train(*engine, layer.source, options, x, y, 67, 15);
            CHECK(got.losses.back() < 0.5 * got.losses.front());
            if (first) {
                CHECK(got.losses == first->losses);
                CHECK(got.weights == first->weights);
            }
            if (!first) first = std::move(got);
        }
    }
}
