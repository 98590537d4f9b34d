// What a layer says of inputs, weights and sums that it can not work with.
#include <catch2/catch_test_macros.hpp>
#include <cmath>
#include <cstring>
#include <limits>

#include "engine/formats/moe0.h"
#include "tests/engines.h"
#include "tests/moe/layer_forms.h"
#include "tests/moe/random_layer.h"

using namespace vkmoe;

TEST_CASE("bad inputs are errors that name the place", "[layer][device]") {
    Description d = test::sharedExpertMoe();
    test::RandomLayer layer = test::makeRandomLayer(d, WeightFormat::f32, 9);
    for (Engine* engine : test::engines()) {
        INFO(engine->device().info().name);
        Layer loaded = test::loadLayer(*engine, layer.source);
        for (float bad : {NAN, -NAN, INFINITY, -INFINITY, 0x1p63f, std::numeric_limits<float>::max()}) {
            auto x = test::randomTokens(50, d.model_dim, 3);
            x[17 * d.model_dim + 5] = bad;
            auto result = loaded.forward(x, {.max_batch = 8});
            REQUIRE(!result);
            CHECK(result.error().code == ErrorCode::bad_input);
            CHECK(result.error().detail ==
                  "the input: 1 values are not finite or not below 2^63 in size, the first at token 17, element 5");
        }
        auto x = test::randomTokens(1, d.model_dim, 3);
        x.pop_back();
        auto result = loaded.forward(x);
        REQUIRE(!result);
        CHECK(result.error().detail == "the input has 63 values, no whole number of tokens of 64 values");
    }
}

TEST_CASE("values that overflow on the way are errors", "[layer][device]") {
    auto file = formats::initMoe0({}).value();
    auto source = formats::readMoe0(memorySource("default.moe0", file));
    std::vector<float> x(64, 0x1p62f);
    for (Engine* engine : test::engines()) {
        auto result = test::loadLayer(*engine, *source).forward(x);
        REQUIRE(!result);
        CHECK(result.error().code == ErrorCode::bad_input);
    }
}

TEST_CASE("a sum that goes out of range is an error even where the activation would hide it", "[layer][device]") {
    auto file = formats::initMoe0({.model_dim = 64, .hidden_dim = 1, .experts = 1, .top_k = 1}).value();
    auto clean = formats::readMoe0(memorySource("x.moe0", file));
    const auto* up = clean->find("experts.0.up.weight");
    for (uint32_t k = 0; k < 64; ++k) {  // +infinity after the first block of the sum, NaN after the second
        float weight = k < 32 ? 9e18f : -9e18f;
        std::memcpy(file.data() + up->offset + k * 4, &weight, 4);
    }
    auto source = formats::readMoe0(memorySource("x.moe0", file));
    std::vector<float> tokens(64 * 20, 9e18f);
    for (Engine* engine : test::engines()) {
        for (size_t count : {64, 64 * 20}) {
            auto result = test::loadLayer(*engine, *source).forward(std::span(tokens).first(count));
            REQUIRE(!result);
            CHECK(result.error().detail.starts_with("the "));
        }
    }
}

TEST_CASE("tensors of the wrong shape or format are refused", "[layer]") {
    test::RandomLayer layer = test::makeRandomLayer(test::mixtral(), WeightFormat::f32, 9);
    auto engine = Engine::open({.device = "cpu"});
    auto broken = layer.source;
    for (auto& tensor : broken.tensors)
        if (tensor.name == "experts.1.up.weight") tensor.shape[0] += 16;
    auto result = Layer::create(**engine, broken);
    REQUIRE(!result);
    CHECK(result.error().detail.find("experts.1.up.weight has shape [96, 48]") != std::string::npos);
    for (auto& tensor : broken.tensors)
        if (tensor.name == "experts.1.up.weight")
            tensor = *layer.source.find("experts.1.up.weight"), tensor.format = WeightFormat::f16, tensor.bytes /= 2;
    result = Layer::create(**engine, broken);
    REQUIRE(!result);
    CHECK(result.error().detail.find("experts.1.up.weight is f16, expert 0's is f32") != std::string::npos);
}

TEST_CASE("weights that are not finite are errors that name the tensor", "[layer][device]") {
    for (bool fp16 : {false, true}) {
        auto file = formats::initMoe0({.model_dim = 6, .hidden_dim = 5, .experts = 3, .top_k = 1}, 1, fp16).value();
        auto clean = formats::readMoe0(memorySource("x.moe0", file));
        for (const char* tensor :
             {"router.weight", "shared.up.bias", "shared.down.weight", "experts.2.up.weight", "experts.2.down.bias"}) {
            auto bytes = file;
            const auto* range = clean->find(tensor);
            size_t width = fp16 ? 2 : 4, element = 4;
            uint32_t nan = fp16 ? 0xfe01u : 0xffc00001u;
            std::memcpy(bytes.data() + range->offset + element * width, &nan, width);
            auto source = formats::readMoe0(memorySource("x.moe0", bytes));
            REQUIRE(source);
            for (Engine* engine : test::engines()) {
                auto layer = Layer::create(*engine, *source);
                REQUIRE(!layer);
                CHECK(layer.error().code == ErrorCode::bad_input);
                CHECK(layer.error().detail.starts_with(std::string("x.moe0: ") + tensor + " holds 1 values"));
            }
        }
    }
}
