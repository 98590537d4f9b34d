#include "engine/formats/moe0.h"

#include <algorithm>
#include <bit>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <cmath>
#include <cstring>
#include <limits>

#include "engine/formats/fp16_truncate.h"

using namespace vkmoe;
using namespace vkmoe::formats;
using Catch::Matchers::ContainsSubstring;

namespace {

constexpr Moe0Config kSmall = {4, 6, 3, 2};  // P = 244

std::vector<std::byte> mustInit(const Moe0Config& config, std::optional<uint32_t> seed = {}, bool fp16 = false) {
    Result<std::vector<std::byte>> bytes = initMoe0(config, seed, fp16);
    REQUIRE(bytes);
    return std::move(*bytes);
}

LayerSource mustRead(std::vector<std::byte> bytes, bool compat = false) {
    Result<LayerSource> layer = readMoe0(memorySource("x.moe0", std::move(bytes)), {.compat = compat});
    REQUIRE(layer);
    return std::move(*layer);
}

std::vector<std::byte> contents(const LayerSource& layer) {
    std::vector<std::byte> bytes(layer.bytes->size());
    REQUIRE(layer.bytes->read(0, bytes));
    return bytes;
}

std::string initError(const Moe0Config& config) {
    const Result<std::vector<std::byte>> bytes = initMoe0(config);
    REQUIRE(!bytes);
    return bytes.error().detail;
}

}  // namespace

TEST_CASE("a MoE0 file lists its tensors one after the other", "[moe0]") {
    const bool fp16 = GENERATE(false, true);
    const LayerSource layer = mustRead(mustInit(kSmall, 7, fp16));
    const std::vector<std::pair<std::string, std::vector<uint64_t>>> expected = {
        {"router.weight", {3, 4}},         {"shared.up.weight", {6, 4}},      {"shared.up.bias", {6}},
        {"shared.down.weight", {4, 6}},    {"shared.down.bias", {4}},         {"experts.0.up.weight", {6, 4}},
        {"experts.0.up.bias", {6}},        {"experts.0.down.weight", {4, 6}}, {"experts.0.down.bias", {4}},
        {"experts.1.up.weight", {6, 4}},   {"experts.1.up.bias", {6}},        {"experts.1.down.weight", {4, 6}},
        {"experts.1.down.bias", {4}},      {"experts.2.up.weight", {6, 4}},   {"experts.2.up.bias", {6}},
        {"experts.2.down.weight", {4, 6}}, {"experts.2.down.bias", {4}}};
    REQUIRE(layer.tensors.size() == expected.size());
    uint64_t offset = 24;
    for (size_t i = 0; i < expected.size(); ++i) {
        const TensorRange& tensor = layer.tensors[i];
        CHECK(tensor.name == expected[i].first);
        CHECK(tensor.shape == expected[i].second);
        CHECK(tensor.format == (fp16 ? WeightFormat::f16 : WeightFormat::f32));
        CHECK(tensor.offset == offset);
        offset += tensor.bytes;
    }
    CHECK(offset == layer.bytes->size());
    CHECK(layer.warnings.empty());
    CHECK(layer.find("experts.2.down.bias") == &layer.tensors.back());
    CHECK(layer.find("experts.3.up.bias") == nullptr);
}

TEST_CASE("a MoE0 layer is described as the reference engine runs it", "[moe0]") {
    const Description description = mustRead(mustInit(kSmall)).description;
    CHECK(description.model_dim == 4);
    CHECK(description.hidden_dim == 6);
    CHECK(description.experts == 3);
    CHECK(description.top_k == 2);
    CHECK(description.score == Score::softmax_selected);
    CHECK_FALSE(description.renormalize);
    CHECK(description.routed_scale == 1);
    CHECK(description.activation == Activation::relu);
    CHECK_FALSE(description.gated());
    CHECK((description.up_bias && description.down_bias && !description.gate_bias));
    CHECK(description.shared == Shared::plain);
    CHECK(description.shared_order == SharedOrder::first);
    CHECK(description.shared_dim == 6);
    CHECK((description.shared_up_bias && description.shared_down_bias && !description.shared_gate_bias));
    CHECK_FALSE(description.router_bias);
    CHECK_FALSE(description.selection_bias);
}

TEST_CASE("a written file holds the parameters, in float16 truncated", "[moe0]") {
    std::vector<float> parameters(244);
    for (size_t i = 0; i < parameters.size(); ++i) parameters[i] = 0.1f * static_cast<float>(i) - 7;
    parameters[3] = -std::numeric_limits<float>::quiet_NaN();
    for (bool fp16 : {false, true}) {
        const Result<std::vector<std::byte>> bytes = writeMoe0(kSmall, parameters, fp16);
        REQUIRE(bytes);
        const size_t width = fp16 ? 2 : 4;
        REQUIRE(bytes.value().size() == 24 + width * parameters.size());
        for (size_t i = 0; i < parameters.size(); ++i) {
            uint32_t bits = fp16 ? fp16TruncateEncode(parameters[i]) : std::bit_cast<uint32_t>(parameters[i]);
            REQUIRE(std::memcmp(&bytes.value()[24 + i * width], &bits, width) == 0);
        }
        mustRead(bytes.value());
    }
    parameters.pop_back();
    const Result<std::vector<std::byte>> short_of_one = writeMoe0(kSmall, parameters);
    REQUIRE(!short_of_one);
    CHECK(short_of_one.error().detail ==
          "modelDim 4, hiddenDim 6, numExperts 3 have 244 parameters, and 243 were given");
}

TEST_CASE("float16 truncates toward zero", "[moe0][fp16]") {
    CHECK(fp16TruncateEncode(1.0f) == 0x3c00);
    CHECK(fp16TruncateEncode(0x1.ffcp0f + 0x1p-12f) == 0x3fff);  // nearest would round up
    CHECK(fp16TruncateEncode(65535.99f) == 0x7bff);              // 65504
    CHECK(fp16TruncateEncode(-65536.0f) == 0xfc00);
    CHECK(fp16TruncateEncode(-0.0f) == 0x8000);
    CHECK(fp16TruncateEncode(0x1.fp-25f) == 0);     // nearest would give the smallest subnormal
    CHECK(std::isinf(fp16TruncateDecode(0xfe01)));  // a negative NaN
    CHECK(std::isnan(fp16TruncateDecode(0x7e01)));
    for (uint32_t bits = 0; bits < 65536; ++bits)
        if ((bits & 0x7c00) != 0x7c00)
            REQUIRE(fp16TruncateEncode(fp16TruncateDecode(static_cast<uint16_t>(bits))) == bits);
}

TEST_CASE("a cold start has a default seed, and zero means one", "[moe0]") {
    CHECK((mustInit(kSmall) == mustInit(kSmall, 0x4d6f4501)));
    CHECK((mustInit(kSmall, 0) == mustInit(kSmall, 1)));
    CHECK((mustInit(kSmall, 1) != mustInit(kSmall, 2)));
    CHECK(mustInit({}).size() == 24 + 4 * 149696);
}

TEST_CASE("a cold start of impossible dimensions says which", "[moe0]") {
    CHECK(initError({0, 6, 3, 2}) == "modelDim is 0; it must be at least 1");
    CHECK(initError({4, 0, 3, 2}) == "hiddenDim is 0; it must be at least 1");
    CHECK(initError({4, 6, 0, 0}) == "numExperts is 0; it must be at least 1");
    CHECK(initError({4, 6, 3, 0}) == "topK is 0; it must be at least 1");
    CHECK(initError({4, 6, 2, 3}) == "topK is 3; it must be at most numExperts, which is 2");
    CHECK(initError({131072, 65536, 1, 1}) ==
          "modelDim 131072, hiddenDim 65536, numExperts 1 make 34360262656 parameters; "
          "at most 17179869184 are held in memory");
    CHECK(
        initError({UINT32_MAX, UINT32_MAX, UINT32_MAX, 1}) ==
        "modelDim 4294967295, hiddenDim 4294967295, numExperts 4294967295 make more parameters than 64 bits can count");
}

TEST_CASE("a seed is read as JavaScript reads it", "[moe0][rng]") {
    CHECK(toUint32(0) == 0);
    CHECK(toUint32(1.9) == 1);
    CHECK(toUint32(-1.9) == 0xffffffff);
    CHECK(toUint32(-1) == 0xffffffff);
    CHECK(toUint32(-0.5) == 0);
    CHECK(toUint32(4294967301.0) == 5);
    CHECK(toUint32(-4294967301.0) == 4294967291);
    CHECK(toUint32(0x1p84) == 0);
    CHECK(toUint32(std::numeric_limits<double>::quiet_NaN()) == 0);
    CHECK(toUint32(-std::numeric_limits<double>::infinity()) == 0);
}

TEST_CASE("four bytes tell a MoE0 file", "[moe0]") {
    const std::vector<std::byte> bytes = mustInit(kSmall);
    CHECK(looksLikeMoe0(bytes));
    CHECK(looksLikeMoe0(std::span(bytes).first(4)));
    CHECK_FALSE(looksLikeMoe0(std::span(bytes).first(3)));
    CHECK_FALSE(looksLikeMoe0({}));
    CHECK_FALSE(looksLikeMoe0(std::span(bytes).subspan(4)));
}

TEST_CASE("compat reads an unknown version as float32", "[moe0][compat]") {
    const uint32_t version = GENERATE(0u, 3u, 0xffffffffu);
    std::vector<std::byte> bytes = mustInit(kSmall);
    std::memcpy(&bytes[4], &version, 4);
    const LayerSource layer = mustRead(bytes, true);
    CHECK(layer.tensors.front().format == WeightFormat::f32);
    REQUIRE(layer.warnings.size() == 1);
    CHECK(layer.warnings[0] == "x.moe0: version is " + std::to_string(version) + "; read as float32");
    CHECK((contents(layer) == bytes));
}

TEST_CASE("compat ignores bytes after the parameters", "[moe0][compat]") {
    const bool fp16 = GENERATE(false, true);
    const size_t extra = GENERATE(1, 2, 3, 4, 4096);
    std::vector<std::byte> bytes = mustInit(kSmall, {}, fp16);
    bytes.resize(bytes.size() + extra, std::byte{0xff});
    const LayerSource layer = mustRead(bytes, true);
    CHECK(layer.tensors.back().offset + layer.tensors.back().bytes == bytes.size() - extra);
    REQUIRE(layer.warnings.size() == 1);
    CHECK(layer.warnings[0] == "x.moe0: the " + std::to_string(extra) + " bytes after the parameters are ignored");
}

TEST_CASE("compat completes a short float32 file from a cold start", "[moe0][compat]") {
    const std::vector<std::byte> file = mustInit(kSmall, 9), cold = mustInit(kSmall);
    for (size_t length = 24; length < file.size(); length += 4) {
        CAPTURE(length);
        const LayerSource layer = mustRead({file.begin(), file.begin() + static_cast<ptrdiff_t>(length)}, true);
        std::vector<std::byte> expected = cold;
        std::copy_n(file.begin(), length, expected.begin());
        REQUIRE((contents(layer) == expected));
        CHECK(layer.bytes->name() == "x.moe0");
        REQUIRE(layer.warnings.size() == 1);
        CHECK(layer.warnings[0] == "x.moe0: the file ends after " + std::to_string(length / 4 - 6) +
                                       " of 244 parameters; the others are those of a cold start, seed 1299137793");
    }
}

TEST_CASE("compat refuses what the reference engine refuses", "[moe0][compat]") {
    const auto error = [](std::vector<std::byte> bytes, Moe0Options options = {.compat = true}) {
        const Result<LayerSource> layer = readMoe0(memorySource("x.moe0", std::move(bytes)), options);
        REQUIRE(!layer);
        return layer.error().detail;
    };
    std::vector<std::byte> bytes = mustInit(kSmall);
    bytes.pop_back();
    CHECK_THAT(error(bytes), ContainsSubstring("length is 999 bytes, which ends within a number"));
    std::vector<std::byte> halves = mustInit(kSmall, {}, true);
    halves.resize(halves.size() - 4);
    CHECK_THAT(error(halves),
               ContainsSubstring("length is 508 bytes; modelDim 4, hiddenDim 6, numExperts 3 in version 2 "
                                 "(float16) make exactly 512"));
    bytes.resize(900);
    CHECK_THAT(error(bytes, {.compat = true, .max_completed_bytes = 99}),
               ContainsSubstring("length is 900 bytes; modelDim 4, hiddenDim 6, numExperts 3 make exactly 1000, "
                                 "and at most 99 missing bytes are completed"));
    bytes.resize(23);
    CHECK(error(bytes) == "x.moe0: length is 23 bytes; the header of a MoE0 file has 24");
}
