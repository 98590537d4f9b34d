// The 16-bit formats, rounding to fewer bits and the rules, against double arithmetic and the processor's conversions.
#include <fmt/format.h>

#include <bit>
#include <catch2/catch_test_macros.hpp>
#include <cmath>
#include <limits>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "shaders/exact_math.h"
#include "tests/math/sweep.h"

using namespace vkmoe;

namespace {

constexpr uint32_t kSign = 0x80000000;

uint32_t bitsOf(float x) { return std::bit_cast<uint32_t>(x); }
float fromBits(uint32_t b) { return std::bit_cast<float>(b); }

// ---- the oracle: formats as sets of numbers -------------------------------------------------------------------------

struct Format {
    const char* name;
    int significand;   // bits, the leading one included
    int min_exponent;  // of the smallest normal number
    int max_exponent;  // of the largest number
    uint32_t nan;      // the one that encode gives
    float (*decode)(uint32_t);
    uint32_t (*encode)(float);

    int fieldBits() const { return significand - 1; }
    uint32_t infinity() const { return static_cast<uint32_t>(max_exponent - min_exponent + 2) << fieldBits(); }
};

const Format kF16Format = {"f16", 11, -14, 15, 0x7e00, f16_decode, f16_encode};
const Format kBf16Format = {"bf16", 8, -126, 127, 0x7fc0, bf16_decode, bf16_encode};

// The value of a finite code.
double valueOf(const Format& f, uint32_t code) {
    uint32_t magnitude = code & 0x7fffu, field = magnitude & ((1u << f.fieldBits()) - 1),
             exponent = magnitude >> f.fieldBits();
    double value = exponent == 0
                       ? std::ldexp(field, f.min_exponent - f.fieldBits())
                       : std::ldexp(field + (1u << f.fieldBits()), f.min_exponent + int(exponent) - 1 - f.fieldBits());
    return (code & 0x8000u) != 0 ? -value : value;
}

// |x| rounded to a number with so many significand bits and no exponent below the smallest, nearest even. x is finite.
double rounded(double x, int significand, int min_exponent) {
    if (x == 0) return 0;
    double quantum = std::ldexp(1.0, std::max(std::ilogb(x), min_exponent) - significand + 1);
    return std::nearbyint(std::fabs(x) / quantum) * quantum;
}

// The code of the number nearest to x.
uint32_t codeOf(const Format& f, float x) {
    uint32_t sign = std::signbit(x) ? 0x8000u : 0u;
    if (std::isnan(x)) return f.nan;
    if (std::isinf(x)) return sign | f.infinity();
    double value = rounded(x, f.significand, f.min_exponent);
    if (value == 0) return sign;
    int exponent = std::ilogb(value);
    if (exponent > f.max_exponent) return sign | f.infinity();
    double quantum = std::ldexp(1.0, std::max(exponent, f.min_exponent) - f.fieldBits());
    uint32_t units = static_cast<uint32_t>(value / quantum);  // the leading bit carries into the exponent's field
    uint32_t field = exponent < f.min_exponent ? 0 : static_cast<uint32_t>(exponent - f.min_exponent) << f.fieldBits();
    return sign | (field + units);
}

// ---- checks ---------------------------------------------------------------------------------------------------------

void checkDecode(const Format& f) {
    uint32_t failures = 0, first = 0, got = 0, expected = 0;
    for (uint32_t code = 0; code < 65536; ++code) {
        uint32_t magnitude = code & 0x7fffu, sign = (code & 0x8000u) << 16;
        uint32_t right = magnitude > f.infinity()    ? 0x7fc00000u
                         : magnitude == f.infinity() ? sign | 0x7f800000u
                                                     : bitsOf(static_cast<float>(valueOf(f, code)));
        uint32_t decoded = bitsOf(f.decode(code));
        if (decoded != right && failures++ == 0) first = code, got = decoded, expected = right;
    }
    INFO(fmt::format("{} 0x{:04x} decodes to 0x{:08x}, expected 0x{:08x}", f.name, first, got, expected));
    CHECK(failures == 0);
}

void checkEncode(const Format& f, uint64_t stride) {
    test::Inputs inputs(stride);
    test::Sweep sweep = test::sweepAll(inputs.count(), [&](uint64_t i, test::Sweep& s) {
        float x = fromBits(inputs[i]);
        s.check(f.encode(x) == codeOf(f, x), i);
    });
    float x = fromBits(sweep.failures != 0 ? inputs[sweep.first] : 0);
    INFO(fmt::format("{} of 0x{:08x}: 0x{:04x}, expected 0x{:04x}", f.name, bitsOf(x), f.encode(x), codeOf(f, x)));
    CHECK(sweep.failures == 0);
}

// Every code, every point half way to the next one, and their neighbours.
float nearBoundary(const Format& f, uint64_t index) {
    uint32_t code = static_cast<uint32_t>(index / 10) & 0x7fffu, sign = index / 10 < 0x8000u ? 0 : kSign;
    double value = valueOf(f, code), next = valueOf(f, code + 1);
    uint32_t b = bitsOf(static_cast<float>(index % 2 == 0 ? value : (value + next) / 2));
    return fromBits((b + static_cast<uint32_t>(index / 2 % 5) - 2) ^ sign);
}

void checkBoundaries(const Format& f) {
    test::Sweep sweep = test::sweepAll(65536 * 10, [&](uint64_t i, test::Sweep& s) {
        if ((i / 10 & 0x7fffu) >= f.infinity()) return;
        float x = nearBoundary(f, i);
        s.check(f.encode(x) == codeOf(f, x), i);
    });
    float x = sweep.failures != 0 ? nearBoundary(f, sweep.first) : 0.0f;
    INFO(fmt::format("{} of 0x{:08x}: 0x{:04x}, expected 0x{:04x}", f.name, bitsOf(x), f.encode(x), codeOf(f, x)));
    CHECK(sweep.failures == 0);
}

uint32_t expectedRound(uint32_t b, int bits) {
    float x = fromBits(b);
    if (!std::isfinite(x)) return b;
    return bitsOf(static_cast<float>(rounded(x, bits, -126))) | (b & kSign);
}

void checkRound(int bits, uint64_t stride) {
    test::Inputs inputs(stride);
    auto got = [&](uint32_t b) { return bitsOf(round_to_bits(fromBits(b), static_cast<uint32_t>(bits))); };
    test::Sweep sweep = test::sweepAll(inputs.count(), [&](uint64_t i, test::Sweep& s) {
        s.check(got(inputs[i]) == expectedRound(inputs[i], bits), i);
    });
    uint32_t b = sweep.failures != 0 ? inputs[sweep.first] : 0;
    INFO(fmt::format("0x{:08x} to {} bits: 0x{:08x}, expected 0x{:08x}", b, bits, got(b), expectedRound(b, bits)));
    CHECK(sweep.failures == 0);
}

// A rule keeps x, or makes it +0 if |x| < threshold.
void checkRule(const char* name, float (*rule)(float), double threshold, uint64_t stride) {
    test::Inputs inputs(stride);
    auto expected = [&](uint32_t b) { return std::fabs(double(fromBits(b))) < threshold ? 0u : b; };
    test::Sweep sweep = test::sweepAll(inputs.count(), [&](uint64_t i, test::Sweep& s) {
        s.check(bitsOf(rule(fromBits(inputs[i]))) == expected(inputs[i]), i);
    });
    uint32_t b = sweep.failures != 0 ? inputs[sweep.first] : 0;
    INFO(fmt::format("{}(0x{:08x}): 0x{:08x}, expected 0x{:08x}", name, b, bitsOf(rule(fromBits(b))), expected(b)));
    CHECK(sweep.failures == 0);
    CHECK(bitsOf(rule(static_cast<float>(threshold))) == bitsOf(static_cast<float>(threshold)));
    CHECK(bitsOf(rule(std::nextafter(-static_cast<float>(threshold), 0.0f))) == 0);
}

void checkRules(uint64_t stride) {
    checkRule("operand_rule", operand_rule, 0x1p-40, stride);
    checkRule("operand_rule_bf16", operand_rule_bf16, 0x1p-56, stride);
    checkRule("state_rule", state_rule, 0x1p-100, stride);
    checkRule("normal_or_zero", normal_or_zero, 0x1p-126, stride);
}

#if defined(__x86_64__)
// The processor's conversions; NaN, which they treat otherwise, left out.
__attribute__((target("f16c"))) bool encodesAsProcessor(uint32_t b) {
    float x = fromBits(b);
    return std::isnan(x) || static_cast<uint16_t>(_cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT)) == f16_encode(x);
}

__attribute__((target("f16c"))) bool decodesAsProcessor(uint32_t code) {
    return (code & 0x7fffu) > 0x7c00u ||
           bitsOf(_cvtsh_ss(static_cast<unsigned short>(code))) == bitsOf(f16_decode(code));
}

void checkProcessor(uint64_t stride) {
    if (!__builtin_cpu_supports("avx2")) SKIP("this processor may not convert f16");  // clang 14 knows no "f16c"
    test::Inputs inputs(stride);
    test::Sweep sweep =
        test::sweepAll(inputs.count(), [&](uint64_t i, test::Sweep& s) { s.check(encodesAsProcessor(inputs[i]), i); });
    INFO(fmt::format("f16 of 0x{:08x}", sweep.failures != 0 ? inputs[sweep.first] : 0));
    CHECK(sweep.failures == 0);
    uint32_t wrong = 0;
    for (uint32_t code = 0; code < 65536; ++code) wrong += !decodesAsProcessor(code);
    CHECK(wrong == 0);
}
#endif

constexpr uint64_t kStride = 251;

}  // namespace

TEST_CASE("f16 and bf16 decode all codes exactly", "[math]") {
    checkDecode(kF16Format);
    checkDecode(kBf16Format);
}

TEST_CASE("f16 and bf16 encode to nearest even", "[math]") {
    checkBoundaries(kF16Format);
    checkBoundaries(kBf16Format);
    checkEncode(kF16Format, kStride);
    checkEncode(kBf16Format, kStride);
}

TEST_CASE("f16 and bf16 encode all floats to nearest even", "[.exhaustive]") {
    checkEncode(kF16Format, 1);
    checkEncode(kBf16Format, 1);
}

TEST_CASE("f16 and bf16 encode what they decoded", "[math]") {
    uint32_t wrong = 0;
    for (const Format& f : {kF16Format, kBf16Format}) {
        for (uint32_t code = 0; code < 65536; ++code) {
            bool is_number = (code & 0x7fffu) <= f.infinity();
            wrong += f.encode(f.decode(code)) != (is_number ? code : f.nan);
        }
    }
    CHECK(wrong == 0);
}

TEST_CASE("round_to_bits rounds to nearest even", "[math]") {
    for (int bits = 2; bits <= 24; ++bits) checkRound(bits, 5003);
}

TEST_CASE("round_to_bits rounds all floats to nearest even", "[.exhaustive]") {
    for (int bits : {8, 10, 13, 16, 22}) checkRound(bits, 1);
    for (int bits = 2; bits <= 24; ++bits) checkRound(bits, 37);
}

TEST_CASE("the operand and state rules cut at their thresholds", "[math]") { checkRules(1021); }
TEST_CASE("the operand and state rules cut all floats at their thresholds", "[.exhaustive]") { checkRules(1); }

TEST_CASE("as_operand rounds, then applies the operand rule", "[math]") {
    CHECK(as_operand(std::nextafter(0x1p-40f, 0.0f), 13) == 0x1p-40f);  // rounded up to the threshold
    CHECK(bitsOf(as_operand(std::nextafter(-0x1p-40f, 0.0f), 24)) == 0);
    CHECK(as_operand(-0x1.0004p-40f, 13) == -0x1p-40f);
    CHECK(as_operand(1 + 0x1p-13f, 13) == 1.0f);  // a tie, to even
    CHECK(as_operand(1 + 3 * 0x1p-13f, 13) == 1 + 0x1p-11f);
}

#if defined(__x86_64__)
TEST_CASE("f16 converts as the processor does", "[math]") { checkProcessor(kStride); }
TEST_CASE("f16 converts all floats as the processor does", "[.exhaustive]") { checkProcessor(1); }
#endif
