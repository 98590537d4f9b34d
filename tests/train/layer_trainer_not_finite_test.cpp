// What becomes of values that are not finite when a layer is trained.
#include <catch2/catch_test_macros.hpp>
#include <cstring>
#include <limits>

#include "tests/engines.h"
#include "tests/moe/random_layer.h"
#include "tests/must.h"
#include "vkmoe/layer_trainer.h"

using namespace vkmoe;
using test::must;

namespace {

Description withEverything() {
    Description d{.model_dim = 20, .hidden_dim = 24, .experts = 5, .top_k = 2};
    d.score = Score::softmax_selected;
    d.activation = Activation::silu_glu;
    d.router_bias = d.gate_bias = d.up_bias = d.down_bias = true;
    d.shared = Shared::sigmoid_gated;
    d.shared_dim = 12;
    d.shared_gate_bias = d.shared_up_bias = d.shared_down_bias = true;
    return d;
}

std::vector<std::byte> bytesOf(const formats::LayerSource& source) {
    std::vector<std::byte> bytes(source.bytes->size());
    REQUIRE(source.bytes->read(0, bytes));
    return bytes;
}

formats::LayerSource withValue(const formats::LayerSource& source, uint64_t offset, float value) {
    auto bytes = bytesOf(source);
    std::memcpy(bytes.data() + offset, &value, 4);
    formats::LayerSource changed = source;
    changed.bytes = memorySource(source.bytes->name(), std::move(bytes));
    return changed;
}

const float kNotFinite[] = {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                            -std::numeric_limits<float>::infinity()};

}  // namespace

TEST_CASE("a weight that is not finite is named before a layer is trained", "[train]") {
    auto engine = must(Engine::open({.device = "cpu"}));
    auto layer = test::makeRandomLayer(withEverything(), WeightFormat::f32, 4);
    for (const auto& tensor : layer.source.tensors)
        for (float value : kNotFinite) {
            uint64_t last = tensor.offset + tensor.bytes - 4;
            auto trainer = LayerTrainer::create(*engine, withValue(layer.source, last, value));
            CAPTURE(tensor.name, value);
            REQUIRE_FALSE(trainer);
            CHECK(trainer.error().code == ErrorCode::bad_input);
            CHECK(trainer.error().detail.find(tensor.name) != std::string::npos);
            INFO(trainer.error().detail);
            CHECK(trainer.error().detail.find("holds 1 values that are not finite") != std::string::npos);
        }
}

TEST_CASE("samples that are not finite are refused, and change no bit of what follows", "[train][device][wide]") {
    Description d = withEverything();
    auto layer = test::makeRandomLayer(d, WeightFormat::f32, 5);
    const auto x = test::randomTokens(37, d.model_dim, 6), y = test::randomTokens(37, d.model_dim, 7);
    for (Engine* engine : test::engines())
        for (Precision precision : {Precision::exact, Precision::rounded}) {
            if (!test::isHost(*engine) && precision == Precision::rounded) continue;  // pipelines take seconds
            CAPTURE(engine->device().info().name, name(precision));
            auto disturbed = must(LayerTrainer::create(*engine, layer.source, {.precision = precision}));
            auto calm = must(LayerTrainer::create(*engine, layer.source, {.precision = precision}));
            must(disturbed.epoch(x, y, {.batch_size = 10}));
            must(calm.epoch(x, y, {.batch_size = 10}));
            const auto before = bytesOf(must(calm.weights()));
            for (float value : kNotFinite) {
                auto bad_x = x, bad_y = y;
                bad_x[3 * d.model_dim + 1] = bad_y[5 * d.model_dim] = value;
                for (auto result : {disturbed.epoch(bad_x, y), disturbed.epoch(x, bad_y)}) {
                    REQUIRE_FALSE(result);
                    CHECK(result.error().code == ErrorCode::bad_input);
                }
                CHECK_FALSE(disturbed.backward(bad_x, y));
                CHECK_FALSE(disturbed.backward(x, bad_y));
                CHECK(bytesOf(must(disturbed.weights())) == before);
            }
            must(disturbed.epoch(x, y, {.batch_size = 10}));
            must(calm.epoch(x, y, {.batch_size = 10}));
            CHECK(bytesOf(must(disturbed.weights())) == bytesOf(must(calm.weights())));
        }
}
