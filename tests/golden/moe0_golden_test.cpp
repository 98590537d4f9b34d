// The MoE0 format and its cold start against what the reference engine recorded: bytes, not tolerances.
#include <bit>
#include <catch2/catch_test_macros.hpp>
#include <cmath>
#include <cstring>
#include <optional>

#include "engine/formats/fp16_truncate.h"
#include "engine/formats/moe0.h"
#include "tests/golden/golden.h"

using namespace vkmoe;
using namespace vkmoe::formats;
using vkmoe::tests::Golden;

namespace {

Moe0Config configOf(const Golden& golden) {
    const auto field = [&](const char* key) { return static_cast<uint32_t>(golden.number(key)); };
    return {field("modelDim"), field("hiddenDim"), field("numExperts"), field("topK")};
}

std::optional<uint32_t> seedOf(const Golden& golden) {
    if (!golden.hasNumber("seed")) return {};
    return toUint32(golden.number("seed"));
}

std::vector<std::byte> mustInit(const Golden& golden, bool fp16) {
    Result<std::vector<std::byte>> bytes = initMoe0(configOf(golden), seedOf(golden), fp16);
    REQUIRE(bytes);
    return std::move(*bytes);
}

LayerSource mustRead(std::vector<std::byte> bytes) {
    Result<LayerSource> layer = readMoe0(memorySource("golden.moe0", std::move(bytes)));
    REQUIRE(layer);
    return std::move(*layer);
}

// All parameters of a file in canonical order.
std::vector<float> parametersOf(const LayerSource& layer) {
    std::vector<float> parameters;
    for (const TensorRange& tensor : layer.tensors) {
        std::vector<std::byte> bytes(tensor.bytes);
        REQUIRE(layer.bytes->read(tensor.offset, bytes));
        const size_t width = tensor.format == WeightFormat::f16 ? 2 : 4;
        for (size_t at = 0; at < bytes.size(); at += width) {
            uint32_t bits = 0;
            std::memcpy(&bits, &bytes[at], width);
            parameters.push_back(width == 2 ? fp16TruncateDecode(static_cast<uint16_t>(bits))
                                            : std::bit_cast<float>(bits));
        }
    }
    return parameters;
}

}  // namespace

TEST_CASE("a cold start equals the reference engine's file, byte for byte", "[golden][moe0]") {
    std::vector<std::string> cases = Golden::cases("moe/");
    REQUIRE(cases.size() == 13);
    for (const std::string& name : cases) {
        CAPTURE(name);
        const Golden golden(name);
        REQUIRE(moe0ParameterCount(configOf(golden)).value() == golden.number("paramCount"));
        for (bool fp16 : {false, true}) {
            const std::string file = fp16 ? "init_v2" : "init_v1";
            if (!golden.hasDigest(file)) continue;
            CAPTURE(file);
            const std::vector<std::byte> bytes = mustInit(golden, fp16);
            CHECK(bytes.size() == golden.digest(file).size);
            CHECK(golden.digest(file).matches(bytes));
            if (golden.hasBlob(file)) CHECK((bytes == golden.blob(file)));
        }
    }
}

TEST_CASE("samples of a large cold start equal the reference engine's", "[golden][moe0]") {
    const Golden golden("moe/large");
    const std::vector<std::byte> bytes = mustInit(golden, false);
    const tests::Digest digest = golden.digest("init");
    CHECK(digest.matches(std::span(bytes).subspan(kMoe0HeaderBytes)));
    const std::vector<float> samples = golden.f32("samples:init");
    for (size_t i = 0; i < samples.size(); ++i) {
        float value = 0;
        std::memcpy(&value, &bytes.at(kMoe0HeaderBytes + i * digest.stride * 4), sizeof value);
        REQUIRE(std::bit_cast<uint32_t>(value) == std::bit_cast<uint32_t>(samples[i]));
    }
}

TEST_CASE("the edge cases' layer has the weights of a cold start, and biases of its own", "[golden][moe0]") {
    const Golden golden("moe_edge");
    const LayerSource edge = mustRead(golden.blob("weights")), cold = mustRead(mustInit(golden, false));
    for (const TensorRange& tensor : edge.tensors) {
        CAPTURE(tensor.name);
        std::vector<std::byte> of_edge(tensor.bytes), of_cold(tensor.bytes);
        REQUIRE(edge.bytes->read(tensor.offset, of_edge));
        REQUIRE(cold.bytes->read(tensor.offset, of_cold));
        CHECK((of_edge == of_cold) == tensor.name.ends_with("weight"));
    }
}

TEST_CASE("reading and writing the reference engine's files gives their bytes back", "[golden][moe0]") {
    for (const std::string& name : Golden::cases("moe")) {
        CAPTURE(name);
        const Golden golden(name);
        for (const char* file : {"init_v1", "init_v2", "weights"}) {
            if (!golden.hasBlob(file)) continue;
            CAPTURE(file);
            const std::vector<std::byte> bytes = golden.blob(file);
            const LayerSource layer = mustRead(bytes);
            const bool fp16 = layer.tensors.front().format == WeightFormat::f16;
            CHECK(fp16 == (std::string(file) == "init_v2"));
            const Result<std::vector<std::byte>> written = writeMoe0(configOf(golden), parametersOf(layer), fp16);
            REQUIRE(written);
            CHECK((written.value() == bytes));
        }
    }
}

TEST_CASE("the random numbers are the reference engine's", "[golden][rng]") {
    const Golden golden("rng");
    // The seeds of the recorded rows: wrapping, negative, fractional, and one whose first draw is zero.
    const std::vector<double> seeds = {0,          1,          2,          7,  42,  1299137793,
                                       1163283533, 4294967295, 4294967301, -1, 1.9, golden.number("zeroDrawSeed")};
    const std::vector<uint32_t> states = golden.u32("states");  // [seeds, draws]
    const std::vector<float> normals = golden.f32("gauss_f32");
    const std::vector<double> exact_normals = golden.f64("gauss_f64");
    REQUIRE(golden.shape("states") == std::vector<uint64_t>{seeds.size(), 16});
    for (size_t row = 0; row < seeds.size(); ++row) {
        CAPTURE(seeds[row]);
        SeededRng uniform(toUint32(seeds[row])), normal(toUint32(seeds[row]));
        for (size_t i = row * 16; i < row * 16 + 16; ++i) {
            CHECK(uniform.uniform() == states[i] / 4294967296.0);
            CHECK(uniform.state() == states[i]);
            const double sample = normal.normal(1);
            CHECK(static_cast<float>(sample) == normals[i]);
            // log and cos of two C libraries differ in the last bit of the double, never of the float.
            CHECK(std::abs(sample - exact_normals[i]) <= 4e-16 * std::abs(exact_normals[i]));
        }
    }
}

TEST_CASE("every float16 decodes as the reference engine's", "[golden][fp16]") {
    const std::vector<float> decoded = Golden("fp16").f32("decode_all");
    REQUIRE(decoded.size() == 65536);
    size_t wrong = 0;
    for (uint32_t bits = 0; bits < 65536; ++bits) {
        const float value = fp16TruncateDecode(static_cast<uint16_t>(bits));
        wrong += std::bit_cast<uint32_t>(value) != std::bit_cast<uint32_t>(decoded[bits]);
    }
    CHECK(wrong == 0);
}

TEST_CASE("floats encode as the reference engine's float16", "[golden][fp16]") {
    const Golden golden("fp16");
    const std::vector<uint32_t> inputs = golden.u32("encode_in");
    const std::vector<uint16_t> encoded = golden.u16("encode_out");
    REQUIRE(inputs.size() == 4064);
    for (size_t i = 0; i < inputs.size(); ++i) {
        CAPTURE(inputs[i]);
        REQUIRE(fp16TruncateEncode(std::bit_cast<float>(inputs[i])) == encoded[i]);
    }
}
