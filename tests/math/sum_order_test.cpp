// The order R32 of sums: panelDot against a reference in double that follows the definition term by term.
//
// An f32 operation done in double and rounded to f32 is the correctly rounded one, whatever the compiler does with f32.
#include <bit>
#include <catch2/catch_test_macros.hpp>
#include <cmath>
#include <optional>
#include <vector>

#include "engine/cpu/panel.h"
#include "tests/math/sweep.h"

using namespace vkmoe;

namespace {

constexpr uint32_t kMaxTerms = 130;

float add(float a, float b) { return static_cast<float>(double(a) + double(b)); }
float multiply(float a, float b) { return static_cast<float>(double(a) * double(b)); }

// The totals of the blocks of 32, each its products added in ascending order; then the bias, if any, and the totals.
float sumR32(const std::vector<float>& x, const std::vector<float>& w, std::optional<float> bias) {
    std::vector<float> blocks;
    for (size_t k = 0; k < x.size(); ++k) {
        float product = multiply(x[k], w[k]);
        if (k % 32 == 0)
            blocks.push_back(product);
        else
            blocks.back() = add(blocks.back(), product);
    }
    float total = bias ? add(*bias, blocks[0]) : blocks[0];
    for (size_t i = 1; i < blocks.size(); ++i) total = add(total, blocks[i]);
    return total;
}

// The 16-bit code's value, by arithmetic.
float valueOf(uint32_t code, uint32_t format) {
    if (format == kBf16) return std::bit_cast<float>(code << 16);
    uint32_t exponent = code >> 10 & 31u, field = code & 0x3ffu;
    double value = exponent == 0 ? std::ldexp(field, -24) : std::ldexp(field + 1024, int(exponent) - 25);
    return static_cast<float>((code & 0x8000u) != 0 ? -value : value);
}

// A weight of the format as it is stored: bits of an f32, or a code.
uint32_t weightBits(uint32_t format, test::Random& random) {
    if (format == kF32) return random.between(-12, 4);
    if (format == kBf16) return random.between(-12, 4) >> 16;
    return (random.bits() & 0x83ffu) | random.below(18) << 10;  // subnormals too
}

// A panel [cols][16] or, of two columns a word, [ceil(cols/2)][16]; the lanes are the rows of a matrix [16, cols].
std::vector<uint32_t> makePanel(const std::vector<uint32_t>& weights, uint32_t cols, uint32_t format) {
    std::vector<uint32_t> panel(16 * size_t{format == kF32 ? cols : (cols + 1) / 2});
    for (uint32_t lane = 0; lane < 16; ++lane) {
        for (uint32_t k = 0; k < cols; ++k) {
            uint32_t bits = weights[lane * cols + k];
            if (format == kF32)
                panel[k * 16 + lane] = bits;
            else
                panel[k / 2 * 16 + lane] |= k % 2 == 0 ? bits : bits << 16;
        }
    }
    return panel;
}

struct Counted {
    uint32_t compared = 0, failures = 0, cols = 0, lane = 0;  // the first failure's
    uint32_t order_matters = 0;  // sums that plain ascending order would have given other bits
};

float ascending(const std::vector<float>& x, const std::vector<float>& w, std::optional<float> bias) {
    float total = bias ? add(*bias, multiply(x[0], w[0])) : multiply(x[0], w[0]);
    for (size_t k = 1; k < x.size(); ++k) total = add(total, multiply(x[k], w[k]));
    return total;
}

void comparePanel(uint32_t cols, uint32_t format, bool with_bias, test::Random& random, Counted& counted) {
    std::vector<uint32_t> weights(16 * size_t{cols});
    for (uint32_t& w : weights) w = weightBits(format, random);
    std::vector<float> x(cols), row(cols);
    for (float& value : x) value = std::bit_cast<float>(random.between(-6, 6));
    std::vector<uint32_t> panel = makePanel(weights, cols, format);
    for (uint32_t lane = 0; lane < 16; ++lane) {
        for (uint32_t k = 0; k < cols; ++k) {
            uint32_t bits = weights[lane * cols + k];
            row[k] = format == kF32 ? std::bit_cast<float>(bits) : valueOf(bits, format);
        }
        std::optional<float> bias;
        if (with_bias) bias = std::bit_cast<float>(random.between(-6, 6));
        float got = panelDot(x.data(), panel.data(), lane, cols, format, bias ? &*bias : nullptr);
        uint32_t bits = std::bit_cast<uint32_t>(got);
        ++counted.compared;
        counted.order_matters += bits != std::bit_cast<uint32_t>(ascending(x, row, bias));
        if (bits == std::bit_cast<uint32_t>(sumR32(x, row, bias)) || counted.failures++ != 0) continue;
        counted.cols = cols, counted.lane = lane;
    }
}

}  // namespace

TEST_CASE("panelDot sums in the order R32", "[math]") {
    vkmoe::FloatEnvironment environment;
    test::Random random(1);
    for (uint32_t format : {kF32, kF16, kBf16}) {
        for (bool with_bias : {false, true}) {
            Counted counted;
            for (uint32_t cols = 1; cols <= kMaxTerms; ++cols) comparePanel(cols, format, with_bias, random, counted);
            INFO("format " << format << ", bias " << with_bias << ": first at K = " << counted.cols << ", lane "
                           << counted.lane);
            CHECK(counted.failures == 0);
            CHECK(counted.compared == 16 * kMaxTerms);
            CHECK(counted.order_matters > counted.compared / 4);
        }
    }
}

TEST_CASE("a sum of one block starts with its first product, or with the bias", "[math]") {
    const float x[] = {-0.0f, 1.0f};
    const uint32_t panel[32] = {0x3f800000u};
    const float minus_zero = -0.0f, one = 1.0f;
    CHECK(std::bit_cast<uint32_t>(panelDot(x, panel, 0, 1, kF32, nullptr)) == 0x80000000u);
    CHECK(std::bit_cast<uint32_t>(panelDot(x, panel, 0, 1, kF32, &minus_zero)) == 0x80000000u);
    CHECK(panelDot(x, panel, 0, 2, kF32, &one) == 1.0f);
}
