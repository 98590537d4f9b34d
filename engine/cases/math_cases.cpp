// Adversarial arguments for the primitive rules and the functions of exact_math.h.
#include <cstddef>

#include "engine/cases/scene.h"
#include "shaders/math_probe.h"

namespace vkmoe {
inline namespace v1 {
namespace {

// Bit patterns near which functions break: range ends, ties, powers of two, specials, subnormals.
constexpr uint32_t kEdges[] = {
    0x00000000, 0x00000001, 0x007fffff, 0x00800000, 0x0d7fffff, 0x0d800000, 0x237fffff, 0x23800000, 0x2b7fffff,
    0x2b800000, 0x32ffffff, 0x33000000, 0x33000001, 0x387fffff, 0x38800000, 0x3f1fffff, 0x3f200000, 0x3f3504f3,
    0x3f7fffff, 0x3f800000, 0x3f800001, 0x3fffffff, 0x40000000, 0x4049103f, 0x411051eb, 0x411051ec, 0x411051ed,
    0x41200000, 0x42ae0000, 0x42ae0001, 0x42b17217, 0x42b17218, 0x42b0c0a5, 0x477fefff, 0x477ff000, 0x477fe000,
    0x4b7fffff, 0x4b800000, 0x5effffff, 0x5f000000, 0x7f7fffff, 0x7f800000, 0x7f800001, 0x7fc00000, 0x7fffffff};

bool isArithmetic(uint32_t function) { return function <= kProbeMad; }

// A normal number whose exponent stays so near 1 that sums, differences and products of two are normal or zero.
uint32_t tameBits(Values& values) {
    uint32_t exponent = 127 + values.below(30) - 15, mantissa = values.bits() & 0x7fffffu;
    if (values.below(4) == 0) mantissa &= 0x7ff000u;  // few bits: rounding ties in products and sums
    return (values.bits() & 0x80000000u) | exponent << 23 | mantissa;
}

uint32_t wildBits(Values& values) {
    uint32_t sign = values.bits() & 0x80000000u;
    switch (values.below(4)) {
        case 0:
            return sign | kEdges[values.below(std::size(kEdges))];
        case 1:
            return sign | (values.bits() & 0x7fffffffu);
        case 2:
            return floatBitsToUint(float(int32_t(values.bits())) * 0x1p-24f);  // -128..128
        default:
            return tameBits(values);
    }
}

}  // namespace

Case mathCase(uint32_t function, uint32_t seed, uint32_t count) {
    Values values(seed + 1000 * function);
    std::vector<uint32_t> a(count), b(count);
    for (uint32_t i = 0; i < count; ++i) {
        a[i] = isArithmetic(function) ? tameBits(values) : wildBits(values);
        b[i] = isArithmetic(function) ? tameBits(values) : wildBits(values);
        if (function >= kProbeF16Decode && function <= kProbeBf16Decode && function != kProbeF16Encode)
            a[i] = values.bits();
    }
    if (function == kProbeLess)  // comparisons are promised for non-NaN values only
        for (uint32_t i = 0; i < count; ++i) a[i] = tameBits(values), b[i] = i % 3 == 0 ? a[i] : tameBits(values);
    Case test(kernels().math_probe, {}, mathFunctionName(function));
    test.point(offsetof(MathProbe, a), test.input("a", std::move(a)));
    test.point(offsetof(MathProbe, b), test.input("b", std::move(b)));
    test.point(offsetof(MathProbe, result), test.output("result", count));
    test.setParams(MathProbe{.count = count, .function = function});
    test.threads = count;
    test.bytes = 12.0 * count;
    return test;
}

const char* mathFunctionName(uint32_t function) {
    static const char* names[] = {"add",         "subtract",    "multiply",      "mad",          "div",
                                  "sqrt",        "rsqrt",       "exp",           "log",          "sigmoid",
                                  "silu",        "tanh",        "gelu",          "f16 decode",   "f16 encode",
                                  "bf16 decode", "bf16 encode", "round to bits", "operand rule", "state rule",
                                  "order key",   "less"};
    return function < std::size(names) ? names[function] : "?";
}

}  // namespace v1
}  // namespace vkmoe
