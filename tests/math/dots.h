// Random dot products whose terms nearly cancel, and their R32 sums, fused and not, flushing subnormals and not.
#pragma once

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>

#include "tests/math/flush_subnormals.h"
#include "tests/math/sweep.h"

namespace test {

constexpr uint32_t kMaxTerms = 160;  // of a random dot product

struct Dot {
    std::array<float, kMaxTerms> x, w;
    uint32_t terms = 0;
};

// How operands are drawn and made.
struct Operands {
    int x_low, x_high, w_low, w_high;  // exponents: 2^low <= |x| < 2^high
    float (*x)(float);
    float (*w)(float);
};

// A float a few units of the given bit away.
inline float nudged(float x, uint32_t unit, Random& random) {
    return std::bit_cast<float>(std::bit_cast<uint32_t>(x) + (random.below(5) - 2) * unit);
}

// Terms come in pairs: a product, and nearly its negative, with both factors changed in their last bits.
inline Dot cancellingDot(uint64_t seed, const Operands& operands) {
    Random random(seed);
    Dot dot;
    dot.terms = 1 + random.below(kMaxTerms);
    // A narrow range of exponents, so that what is left of one pair meets what is left of the next.
    int x_low = random.exponent(operands.x_low, operands.x_high);
    int w_low = random.exponent(operands.w_low, operands.w_high);
    for (uint32_t k = 0; k < dot.terms; k += 2) {
        float x = std::bit_cast<float>(random.between(x_low, std::min(x_low + 3, operands.x_high)));
        float w = std::bit_cast<float>(random.between(w_low, std::min(w_low + 3, operands.w_high)));
        dot.x[k] = operands.x(x), dot.w[k] = operands.w(w);
        if (k + 1 == dot.terms) break;
        uint32_t unit = 1u << random.below(17);
        dot.x[k + 1] = operands.x(-nudged(x, unit, random)), dot.w[k + 1] = operands.w(nudged(w, unit, random));
    }
    return dot;
}

// The order R32, written from its definition.
template <class Step>
float sumR32(const Dot& dot, const Step& step) {
    float total = 0;
    for (uint32_t k0 = 0; k0 < dot.terms; k0 += 32) {
        float s = dot.x[k0] * dot.w[k0];
        for (uint32_t k = k0 + 1; k < k0 + 32 && k < dot.terms; ++k) s = step(dot.x[k], dot.w[k], s);
        total = k0 == 0 ? s : total + s;
    }
    return total;
}

inline uint32_t unfusedBits(const Dot& dot) {
    return std::bit_cast<uint32_t>(sumR32(dot, [](float x, float w, float s) { return s + x * w; }));
}
inline uint32_t fusedBits(const Dot& dot) {
    return std::bit_cast<uint32_t>(sumR32(dot, [](float x, float w, float s) { return std::fma(x, w, s); }));
}

// What a way of summing gives with subnormals kept, and with subnormals flushed.
struct KeptAndFlushed {
    uint32_t kept, flushed;
};
inline KeptAndFlushed keptAndFlushed(const Dot& dot, uint32_t (*sum)(const Dot&)) {
    uint32_t (*volatile opaque)(const Dot&) = sum;
    KeptAndFlushed bits;
    bits.kept = opaque(dot);
    FlushSubnormals flush;
    bits.flushed = opaque(dot);
    return bits;
}

}  // namespace test
