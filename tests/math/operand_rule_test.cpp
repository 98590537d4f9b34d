// Exact precision: with the operand rule no product and no partial sum is subnormal, so flushing them changes nothing.
#include <fmt/format.h>

#include <catch2/catch_test_macros.hpp>

#include "shaders/exact_math.h"
#include "tests/math/dots.h"

using namespace vkmoe;

namespace {

constexpr uint64_t kDots = 200'000;

float same(float x) { return x; }
float asF16(float x) { return f16_decode(f16_encode(x)); }
float asBf16(float x) { return bf16_decode(bf16_encode(x)); }
float asBf16Operand(float x) { return operand_rule_bf16(asBf16(x)); }

// Exponents around the threshold of each format.
const test::Operands kF32Dots = {-42, -36, -42, -36, operand_rule, operand_rule};
const test::Operands kF16Dots = {-42, -36, -26, -20, operand_rule, asF16};
const test::Operands kBf16Dots = {-42, -36, -58, -52, operand_rule, asBf16Operand};
// Without the rule, such exponents may be any.
const test::Operands kF32Without = {-70, -36, -70, -36, same, same};
const test::Operands kF16Without = {-120, -36, -26, -20, same, asF16};
const test::Operands kBf16Without = {-70, -36, -70, -52, same, asBf16};
// The same numbers with the rule.
const test::Operands kF32With = {-70, -36, -70, -36, operand_rule, operand_rule};
const test::Operands kF16With = {-120, -36, -26, -20, operand_rule, asF16};
const test::Operands kBf16With = {-70, -36, -70, -52, operand_rule, asBf16Operand};

test::Sweep keptAgainstFlushed(const test::Operands& operands) {
    return test::sweepAll(kDots, [&](uint64_t i, test::Sweep& s) {
        test::KeptAndFlushed bits = keptAndFlushed(test::cancellingDot(i, operands), test::unfusedBits);
        s.check(bits.kept == bits.flushed, i);
    });
}

void checkSame(const char* format, const test::Operands& operands) {
    test::Sweep sweep = keptAgainstFlushed(operands);
    auto bits = keptAndFlushed(test::cancellingDot(sweep.failures != 0 ? sweep.first : 0, operands), test::unfusedBits);
    INFO(fmt::format("{} weights, dot {}: 0x{:08x}, flushed 0x{:08x}", format, sweep.first, bits.kept, bits.flushed));
    CHECK(sweep.failures == 0);
}

}  // namespace

TEST_CASE("with the operand rule flushing subnormals changes no sum", "[math]") {
    if (!test::FlushSubnormals::kSupported) SKIP("no control over subnormals on this processor");
    checkSame("f32", kF32Dots);
    checkSame("f16", kF16Dots);
    checkSame("bf16", kBf16Dots);
    checkSame("any f32", kF32With);
    checkSame("any f16", kF16With);
    checkSame("any bf16", kBf16With);
}

TEST_CASE("control: without the operand rule flushing subnormals changes sums", "[math]") {
    if (!test::FlushSubnormals::kSupported) SKIP("no control over subnormals on this processor");
    CHECK(keptAgainstFlushed(kF32Without).failures > 1000);
    CHECK(keptAgainstFlushed(kF16Without).failures > 1000);
    CHECK(keptAgainstFlushed(kBf16Without).failures > 1000);
}
