// Matrices that are rounded to bf16 as they are read, against rounding in double precision.
#include "engine/formats/bf16_layer.h"

#include <catch2/catch_get_random_seed.hpp>
#include <catch2/catch_test_macros.hpp>
#include <cmath>
#include <cstring>
#include <random>

#include "engine/formats/moe0.h"

using namespace vkmoe;
using namespace vkmoe::formats;

namespace {

constexpr Moe0Config kShape{5, 7, 3, 1};

double nearestBf16(double value) {
    if (value == 0) return 0;
    double ulp = std::ldexp(1.0, std::max(std::ilogb(value), -126) - 7);
    double rounded = std::nearbyint(value / ulp) * ulp;
    return std::fabs(rounded) < 0x1p-56 ? 0 : rounded;
}

// Of all sizes, with ties between two bf16 numbers among them.
std::vector<float> someValues(std::mt19937& random) {
    std::vector<float> values(moe0ParameterCount(kShape).value());
    for (float& value : values) {
        uint32_t bits = (random() % 180u + 1u) << 23 | (random() & 0x807fffffu);
        if (random() % 3 == 0) bits = (bits & 0xffff0000u) | 0x8000u;
        std::memcpy(&value, &bits, 4);
    }
    values[3] = 0, values[50] = -0.0f, values[51] = 0x1p-56f, values[52] = -0x1.fep-57f, values[53] = 0x1.ffp-57f;
    return values;
}

std::vector<double> valuesOf(const LayerSource& layer, const TensorRange& tensor) {
    std::vector<std::byte> bytes(tensor.bytes);
    REQUIRE(layer.bytes->read(tensor.offset, bytes));
    std::vector<double> values;
    for (size_t at = 0; at < bytes.size(); at += formatBytes(tensor.format, 1)) {
        uint32_t bits = 0;
        std::memcpy(&bits, &bytes[at], formatBytes(tensor.format, 1));
        if (tensor.format == WeightFormat::bf16) bits <<= 16;
        float value = 0;
        std::memcpy(&value, &bits, 4);
        values.push_back(value);
    }
    return values;
}

}  // namespace

TEST_CASE("a layer's matrices are rounded to bf16 as they are read", "[formats]") {
    std::mt19937 random(Catch::getSeed());
    auto values = someValues(random);
    auto layer = readMoe0(memorySource("layer", writeMoe0(kShape, values).value()));
    REQUIRE(layer);
    LayerSource rounded = asBf16(*layer);
    REQUIRE(rounded.tensors.size() == layer->tensors.size());
    for (size_t i = 0; i < rounded.tensors.size(); ++i) {
        const TensorRange &before = layer->tensors[i], &after = rounded.tensors[i];
        bool matrix = before.shape.size() == 2 && before.name != "router.weight";
        CAPTURE(before.name, Catch::getSeed());
        CHECK(after.format == (matrix ? WeightFormat::bf16 : WeightFormat::f32));
        CHECK(after.shape == before.shape);
        CHECK(rounded.bytes->storedBytes(after.offset, after.bytes) == before.bytes);
        auto expected = valuesOf(*layer, before), seen = valuesOf(rounded, after);
        if (matrix)
            for (double& value : expected) value = nearestBf16(value);
        CHECK(seen == expected);
    }
}

TEST_CASE("pieces of rounded matrices are those of the whole, and of float16 the same", "[formats]") {
    std::mt19937 random(Catch::getSeed());
    std::vector<float> values(moe0ParameterCount(kShape).value());
    for (float& value : values)
        value = std::ldexp(float(int(random() % 4095) - 2047), -int(random() % 12));  // float16 has them
    auto plain = readMoe0(memorySource("layer", writeMoe0(kShape, values).value()));
    auto half = readMoe0(memorySource("layer", writeMoe0(kShape, values, true).value()));
    REQUIRE((plain && half));
    LayerSource one = asBf16(*plain), other = asBf16(*half);
    for (const TensorRange& tensor : one.tensors) {
        if (tensor.format != WeightFormat::bf16) continue;
        CAPTURE(tensor.name, Catch::getSeed());
        CHECK(valuesOf(one, tensor) == valuesOf(other, *other.find(tensor.name)));
        std::vector<std::byte> whole(tensor.bytes);
        REQUIRE(one.bytes->read(tensor.offset, whole));
        uint64_t from = random() % (tensor.bytes / 2) * 2, count = random() % ((tensor.bytes - from) / 2) * 2;
        std::vector<std::byte> piece(count);
        REQUIRE(one.bytes->read(tensor.offset + from, piece));
        CHECK(std::equal(piece.begin(), piece.end(), whole.begin() + ptrdiff_t(from)));
    }
    CHECK(one.bytes->nameAt(one.find("experts.2.up.weight")->offset) == "layer");
}
