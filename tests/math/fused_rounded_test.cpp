// Rounded precision: with p_w + p_x <= 24 significand bits every product is exact, so fused and unfused sums, with
// subnormals kept or flushed, have the same bits.
#include <fmt/format.h>

#include <catch2/catch_test_macros.hpp>
#include <string>

#include "shaders/exact_math.h"
#include "tests/math/dots.h"

using namespace vkmoe;

namespace {

constexpr uint64_t kDots = 200'000;

float asF16(float x) { return f16_decode(f16_encode(x)); }
float asBf16(float x) { return operand_rule_bf16(bf16_decode(bf16_encode(x))); }
template <uint32_t kBits>
float rounded(float x) {
    return as_operand(x, kBits);
}

// Exponents from below the thresholds, where operands become zero, up to where f16 ends.
const test::Operands kF16Dots = {-44, 12, -26, 15, rounded<13>, asF16};
const test::Operands kBf16Dots = {-44, 12, -60, 15, rounded<16>, asBf16};
// One bit too many: not every product is exact.
const test::Operands kF16Wide = {-44, 12, -26, 15, rounded<14>, asF16};
const test::Operands kBf16Wide = {-44, 12, -60, 15, rounded<17>, asBf16};
const test::Operands kF32Dots = {-44, 12, -44, 15, rounded<24>, rounded<24>};

test::Sweep fusedAgainstUnfused(const test::Operands& operands) {
    return test::sweepAll(kDots, [&](uint64_t i, test::Sweep& s) {
        test::Dot dot = test::cancellingDot(i, operands);
        s.check(test::fusedBits(dot) == test::unfusedBits(dot), i);
    });
}

test::Sweep fourWays(const test::Operands& operands) {
    return test::sweepAll(kDots, [&](uint64_t i, test::Sweep& s) {
        test::Dot dot = test::cancellingDot(i, operands);
        test::KeptAndFlushed unfused = keptAndFlushed(dot, test::unfusedBits),
                             fused = keptAndFlushed(dot, test::fusedBits);
        s.check(unfused.kept == fused.kept && unfused.kept == unfused.flushed && unfused.kept == fused.flushed, i);
    });
}

void checkSame(const char* weights, const test::Operands& operands) {
    test::Sweep sweep = test::FlushSubnormals::kSupported ? fourWays(operands) : fusedAgainstUnfused(operands);
    test::Dot dot = test::cancellingDot(sweep.failures != 0 ? sweep.first : 0, operands);
    INFO(fmt::format("{} weights, dot {}: unfused 0x{:08x}, fused 0x{:08x}", weights, sweep.first,
                     test::unfusedBits(dot), test::fusedBits(dot)));
    CHECK(sweep.failures == 0);
}

// Sums that are neither zero nor as large as their terms: how often terms cancel.
uint64_t cancelling(const test::Operands& operands) {
    test::Sweep others = test::sweepAll(kDots, [&](uint64_t i, test::Sweep& s) {
        test::Dot dot = test::cancellingDot(i, operands);
        float sum = std::fabs(std::bit_cast<float>(test::unfusedBits(dot)));
        s.check(sum > 0 && sum < std::fabs(dot.x[0] * dot.w[0]) / 4, i);
    });
    return kDots - others.failures;
}

}  // namespace

TEST_CASE("f16 weights times 13-bit activations: fused, unfused and flushed sums are the same", "[math]") {
    checkSame("f16", kF16Dots);
}
TEST_CASE("bf16 weights times 16-bit activations: fused, unfused and flushed sums are the same", "[math]") {
    checkSame("bf16", kBf16Dots);
}

TEST_CASE("controls: wider operands make fused and unfused sums differ", "[math]") {
    CHECK(fusedAgainstUnfused(kF32Dots).failures > kDots / 4);
    CHECK(fusedAgainstUnfused(kF16Wide).failures > 100);
    CHECK(fusedAgainstUnfused(kBf16Wide).failures > 100);
    CHECK(cancelling(kF16Dots) > kDots / 10);
    CHECK(cancelling(kBf16Dots) > kDots / 10);
}
