// The layer against the reference engine's recorded outputs, on every device, bit-equal among devices.
#include <catch2/catch_test_macros.hpp>
#include <cmath>
#include <cstring>

#include "engine/formats/moe0.h"
#include "tests/engines.h"
#include "tests/golden/golden.h"
#include "vkmoe/layer.h"

using namespace vkmoe;
using tests::Golden;

namespace {

std::vector<std::byte> initFile(const Golden& golden, bool fp16) {
    formats::Moe0Config config{uint32_t(golden.number("modelDim")), uint32_t(golden.number("hiddenDim")),
                               uint32_t(golden.number("numExperts")), uint32_t(golden.number("topK"))};
    std::optional<uint32_t> seed;
    if (golden.hasNumber("seed")) seed = formats::toUint32(golden.number("seed"));
    return formats::initMoe0(config, seed, fp16).value();
}

std::vector<std::byte> fileOf(const Golden& golden, bool fp16) {
    std::string blob = fp16 ? "init_v2" : "init_v1";
    return golden.hasBlob(blob) ? golden.blob(blob) : initFile(golden, fp16);
}

Layer layerOf(Engine& engine, std::vector<std::byte> bytes) {
    auto source = formats::readMoe0(memorySource("golden.moe0", std::move(bytes)));
    REQUIRE(source);
    auto layer = Layer::create(engine, *source);
    if (!layer) FAIL(layer.error().detail);
    return std::move(layer).value();
}

double largest(const std::vector<float>& values) {
    double m = 0;
    for (float v : values) m = std::max(m, std::fabs(double(v)));
    return m;
}

// Reference outputs are double sums: 2e-6 of the largest magnitude covers f32 sums of these lengths.
void checkClose(const std::vector<float>& got, const std::vector<float>& want, double of_largest) {
    REQUIRE(got.size() == want.size());
    double bound = of_largest * largest(want), worst = 0;
    for (size_t i = 0; i < got.size(); ++i) worst = std::max(worst, std::fabs(double(got[i]) - double(want[i])));
    CAPTURE(worst, bound);
    CHECK(worst <= bound);
}

}  // namespace

TEST_CASE("forward passes match the reference engine's recordings", "[golden][device]") {
    for (const std::string& name : Golden::cases("moe/")) {
        Golden golden(name);
        DYNAMIC_SECTION(name) {
            auto input = golden.f32("input");
            auto experts = golden.i32("experts");
            std::vector<float> first;
            for (Engine* engine : test::engines()) {
                INFO(engine->device().info().name);
                Layer layer = layerOf(*engine, fileOf(golden, false));
                auto result = layer.forward(input);
                REQUIRE(result);
                CHECK(std::equal(experts.begin(), experts.end(), result->routes.experts.begin(),
                                 result->routes.experts.end(), [](int32_t a, uint32_t b) { return uint32_t(a) == b; }));
                checkClose(result->routes.gates, golden.f32("gates"), 1e-6);
                checkClose(result->output, golden.f32("output"), 2e-6);
                CHECK(std::fabs(result->introspection.load_balance_loss - golden.number("loadBalanceLoss")) < 1e-6);
                if (first.empty()) first = result->output;
                CHECK(std::memcmp(first.data(), result->output.data(), first.size() * 4) == 0);
            }
        }
    }
}

TEST_CASE("float16 checkpoints match the reference engine's recordings", "[golden][device]") {
    for (const std::string& name : Golden::cases("moe/")) {
        Golden golden(name);
        if (!golden.has("output_fp16weights")) continue;
        DYNAMIC_SECTION(name) {
            auto input = golden.f32("input");
            for (Precision precision : {Precision::exact, Precision::rounded}) {
                std::vector<float> first;
                for (Engine* engine : test::engines()) {
                    INFO(engine->device().info().name << ", " << vkmoe::name(precision));
                    Layer layer = layerOf(*engine, fileOf(golden, true));
                    auto result = layer.forward(input, {.precision = precision});
                    REQUIRE(result);
                    // rounded: an operand is rounded by 2^-14 at most, twice on the way; sums of random signs stay far
                    // below 8 of them
                    checkClose(result->output, golden.f32("output_fp16weights"),
                               precision == Precision::exact ? 2e-6 : 8 * 0x1p-14);
                    if (first.empty()) first = result->output;
                    CHECK(std::memcmp(first.data(), result->output.data(), first.size() * 4) == 0);
                }
            }
        }
    }
}
