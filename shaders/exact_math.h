// Exact math: the functions of the numerics contract, one text compiled by glslang and by the C++ compiler.
//
// Only f32 add, subtract and multiply (each rounded once, never fused), integer operations and comparisons are used, so
// every conforming device and the CPU give the same bits. Native `/` and `sqrt` serve as estimates inside exact_div and
// exact_sqrt only, and are corrected by an exact integer remainder. Subnormal inputs count as zero and subnormal
// results become zero, by integer tests. NaN results are 0x7fc00000. Constants are bit patterns: no compiler folds or
// rounds them.
//
// Accuracy in ulp (tests/math): div and sqrt correctly rounded, exp 0.99, log 0.85, tanh 1.34, sigmoid 2.83, silu 3.65,
// rsqrt 1.50, gelu 1.84 (of a negative x: 1.0 ulp of x itself, 1 + tanh cancels there).
#ifndef VKMOE_EXACT_MATH_H
#define VKMOE_EXACT_MATH_H

#ifdef __cplusplus
#include <bit>
#include <cstdint>
namespace vkmoe {
inline namespace v1 {
using uint = std::uint32_t;
inline uint floatBitsToUint(float x) { return std::bit_cast<uint>(x); }
inline float uintBitsToFloat(uint x) { return std::bit_cast<float>(x); }
inline int findMSB(uint x) { return 31 - std::countl_zero(x); }
inline uint max(uint a, uint b) { return a > b ? a : b; }
#define EXACT inline
#else
#define EXACT
#endif

// ---- bits -----------------------------------------------------------------------------------------------------------

EXACT float canonical_nan() { return uintBitsToFloat(0x7fc00000u); }
EXACT uint magnitude_bits(float x) { return floatBitsToUint(x) & 0x7fffffffu; }
EXACT bool is_nan(float x) { return magnitude_bits(x) > 0x7f800000u; }
EXACT float absolute(float x) { return uintBitsToFloat(magnitude_bits(x)); }

// True for what no kernel may take or store: infinities, NaN, and |x| >= 2^63.
EXACT bool out_of_range(float x) { return magnitude_bits(x) >= 0x5f000000u; }

// Subnormals, and both zeros, become +0.
EXACT float normal_or_zero(float x) { return magnitude_bits(x) < 0x00800000u ? uintBitsToFloat(0u) : x; }

// Operand rule: a value used in a dot product is +0 if |x| < 2^-40.
EXACT float operand_rule(float x) { return magnitude_bits(x) < 0x2b800000u ? uintBitsToFloat(0u) : x; }

// Operand rule for bf16 weights: +0 if |x| < 2^-56.
EXACT float operand_rule_bf16(float x) { return magnitude_bits(x) < 0x23800000u ? uintBitsToFloat(0u) : x; }

// State rule: any other stored value is +0 if |x| < 2^-100.
EXACT float state_rule(float x) { return magnitude_bits(x) < 0x0d800000u ? uintBitsToFloat(0u) : x; }

// x rounded to `bits` significand bits (2..24), nearest even, on the integer bits. Non-finite values pass unchanged.
EXACT float round_to_bits(float x, uint bits) {
    uint b = floatBitsToUint(x);
    if (bits >= 24u || (b & 0x7f800000u) == 0x7f800000u) return x;
    uint drop = 24u - bits;
    uint half_below = (1u << (drop - 1u)) - 1u;
    b += half_below + ((b >> drop) & 1u);
    return uintBitsToFloat((b >> drop) << drop);
}

// What a dot product uses of an activation: rounded to `bits`, then the operand rule.
EXACT float as_operand(float x, uint bits) { return operand_rule(round_to_bits(x, bits)); }

// A total order of non-NaN floats as unsigned integers (larger float, larger key); -0 and +0 have the same key.
EXACT uint order_key(float x) {
    uint b = floatBitsToUint(x);
    if ((b & 0x7fffffffu) == 0u) return 0x80000000u;
    return (b & 0x80000000u) != 0u ? ~b : b | 0x80000000u;
}

// ---- arithmetic -----------------------------------------------------------------------------------------------------

// a*b rounded, then + c rounded.
EXACT float mad(float a, float b, float c) { return a * b + c; }

// The value of sign, an exponent that may be out of range, and a 24-bit significand that may have been rounded up to
// 2^24.
EXACT float compose(uint sign, int biased_exponent, uint significand) {
    if (biased_exponent < 0) return uintBitsToFloat(sign);
    if (biased_exponent > 254) return uintBitsToFloat(sign | 0x7f800000u);
    uint b = (uint(biased_exponent) << 23) + (significand - 0x00800000u);
    return uintBitsToFloat(sign | (b < 0x00800000u ? 0u : b));
}

// a/b, correctly rounded. The native quotient of the significands is only an estimate: the remainder is exact in
// wrapping 32-bit integers, and the estimate is stepped until it is the true integer quotient.
EXACT float exact_div(float a, float b) {
    uint abits = floatBitsToUint(a), bbits = floatBitsToUint(b);
    uint sign = (abits ^ bbits) & 0x80000000u;
    uint ea = (abits >> 23) & 255u, eb = (bbits >> 23) & 255u;
    if (is_nan(a) || is_nan(b)) return canonical_nan();
    if (ea == 255u) return eb == 255u ? canonical_nan() : uintBitsToFloat(sign | 0x7f800000u);
    if (eb == 255u) return uintBitsToFloat(sign);
    if (eb == 0u) return ea == 0u ? canonical_nan() : uintBitsToFloat(sign | 0x7f800000u);
    if (ea == 0u) return uintBitsToFloat(sign);
    uint ma = (abits & 0x007fffffu) | 0x00800000u, mb = (bbits & 0x007fffffu) | 0x00800000u;
    uint shift = ma >= mb ? 23u : 24u;
    uint q = uint((float(ma) / float(mb)) * uintBitsToFloat((127u + shift) << 23));
    int r = int((ma << shift) - q * mb);
    for (int step = 0; step < 16; ++step) {
        if (r < 0) {
            q -= 1u;
            r += int(mb);
        } else if (r >= int(mb)) {
            q += 1u;
            r -= int(mb);
        } else {
            break;
        }
    }
    if (2 * r > int(mb)) q += 1u;
    return compose(sign, int(ea) - int(eb) + (shift == 23u ? 127 : 126), q);
}

// The square root, correctly rounded; -x gives NaN, -0 gives -0.
EXACT float exact_sqrt(float x) {
    uint b = floatBitsToUint(x);
    uint e = (b >> 23) & 255u;
    if (is_nan(x)) return canonical_nan();
    if (e == 0u) return uintBitsToFloat(b & 0x80000000u);
    if ((b & 0x80000000u) != 0u) return canonical_nan();
    if (e == 255u) return x;
    uint m = (b & 0x007fffffu) | 0x00800000u;
    uint odd = (e & 1u) ^ 1u;  // parity of the unbiased exponent
    float scaled = uintBitsToFloat((m & 0x007fffffu) | (odd != 0u ? 0x40000000u : 0x3f800000u));  // in [1, 4)
#ifdef __cplusplus
    float estimate = __builtin_sqrtf(scaled);
#else
    float estimate = sqrt(scaled);
#endif
    uint q = uint(estimate * uintBitsToFloat(0x4b000000u));  // * 2^23
    int r = int((m << (23u + odd)) - q * q);
    for (int step = 0; step < 16; ++step) {
        if (r < 0) {
            q -= 1u;
            r += int(2u * q + 1u);
        } else if (r > int(2u * q)) {
            r -= int(2u * q + 1u);
            q += 1u;
        } else {
            break;
        }
    }
    if (r > int(q)) q += 1u;
    return compose(0u, (int(e) - 127 - int(odd)) / 2 + 127, q);
}

EXACT float exact_rsqrt(float x) { return exact_div(uintBitsToFloat(0x3f800000u), exact_sqrt(x)); }

// ---- transcendental functions ---------------------------------------------------------------------------------------

EXACT float exact_exp(float x) {
    if (is_nan(x)) return canonical_nan();
    if (x < uintBitsToFloat(0xc2ae0000u)) return uintBitsToFloat(0u);           // below -87
    if (x > uintBitsToFloat(0x42b17217u)) return uintBitsToFloat(0x7f800000u);  // above 88.72283
    float shifter = uintBitsToFloat(0x4b400000u);                               // 1.5 * 2^23
    float t = mad(x, uintBitsToFloat(0x3fb8aa3bu), shifter);                    // x / ln 2, rounded to an integer
    int n = int(floatBitsToUint(t) - 0x4b400000u);
    float nf = t - shifter;
    float r = mad(nf, uintBitsToFloat(0xbf318000u), x);  // ln 2 in two parts
    r = mad(nf, uintBitsToFloat(0x395e8083u), r);
    float p = uintBitsToFloat(0x3ab5118bu);
    p = mad(p, r, uintBitsToFloat(0x3c091d47u));
    p = mad(p, r, uintBitsToFloat(0x3d2aac7bu));
    p = mad(p, r, uintBitsToFloat(0x3e2aaa48u));
    p = mad(p, r, uintBitsToFloat(0x3efffffeu));
    p = mad(p, r * r, r) + uintBitsToFloat(0x3f800000u);
    return uintBitsToFloat(floatBitsToUint(p) + (uint(n) << 23));
}

// The natural logarithm; log(0) is -infinity, log of a negative number NaN.
EXACT float exact_log(float x) {
    uint b = floatBitsToUint(x);
    if (is_nan(x)) return canonical_nan();
    if ((b & 0x7f800000u) == 0u) return uintBitsToFloat(0xff800000u);
    if ((b & 0x80000000u) != 0u) return canonical_nan();
    if (b == 0x7f800000u) return x;
    uint k = b - 0x3f3504f3u;  // m in [sqrt(1/2), sqrt(2))
    int e = int(k) >> 23;
    float f = uintBitsToFloat((k & 0x007fffffu) + 0x3f3504f3u) - uintBitsToFloat(0x3f800000u);
    float p = uintBitsToFloat(0x3d8a3182u);
    p = mad(p, f, uintBitsToFloat(0xbdef27c8u));
    p = mad(p, f, uintBitsToFloat(0x3df37b02u));
    p = mad(p, f, uintBitsToFloat(0xbdfe0fb7u));
    p = mad(p, f, uintBitsToFloat(0x3e119b72u));
    p = mad(p, f, uintBitsToFloat(0xbe2aae2du));
    p = mad(p, f, uintBitsToFloat(0x3e4cd25eu));
    p = mad(p, f, uintBitsToFloat(0xbe800003u));
    p = mad(p, f, uintBitsToFloat(0x3eaaaaa4u));
    float ff = f * f;
    float ef = float(e);
    float y = (f * ff) * p;
    y = mad(ef, uintBitsToFloat(0xb95e8083u), y);
    y = mad(ff, uintBitsToFloat(0xbf000000u), y);
    return mad(ef, uintBitsToFloat(0x3f318000u), f + y);
}

// 1 / (1 + exp(-x))
EXACT float exact_sigmoid(float x) {
    if (is_nan(x)) return canonical_nan();
    float one = uintBitsToFloat(0x3f800000u);
    float e = exact_exp(uintBitsToFloat(magnitude_bits(x) | 0x80000000u));
    float d = exact_div(one, one + e);
    return (floatBitsToUint(x) & 0x80000000u) == 0u ? d : e * d;
}

// x * sigmoid(x)
EXACT float exact_silu(float x) {
    if (is_nan(x)) return canonical_nan();
    if (magnitude_bits(x) == 0x7f800000u) return x > uintBitsToFloat(0u) ? x : uintBitsToFloat(0u);
    if (magnitude_bits(x) < 0x01000000u) return uintBitsToFloat(0u);  // 2^-125: below it, flushing changes the rounding
    return normal_or_zero(x * exact_sigmoid(x));
}

EXACT float exact_tanh(float x) {
    if (is_nan(x)) return canonical_nan();
    uint sign = floatBitsToUint(x) & 0x80000000u;
    float a = absolute(x);
    float one = uintBitsToFloat(0x3f800000u);
    if (magnitude_bits(x) < 0x2b800000u) return (magnitude_bits(x) < 0x00800000u) ? uintBitsToFloat(sign) : x;
    if (a < uintBitsToFloat(0x3f200000u)) {  // 0.625: x + x^3 P(x^2), P interpolates at Chebyshev nodes
        float z = x * x;
        float p = uintBitsToFloat(0xbbc7c6f2u);
        p = mad(p, z, uintBitsToFloat(0x3cac0247u));
        p = mad(p, z, uintBitsToFloat(0xbd5c92c5u));
        p = mad(p, z, uintBitsToFloat(0x3e08870eu));
        p = mad(p, z, uintBitsToFloat(0xbeaaaaa9u));
        return mad(p * z, x, x);
    }
    float t = one;
    if (a < uintBitsToFloat(0x411051ecu)) t = one - exact_div(uintBitsToFloat(0x40000000u), exact_exp(a + a) + one);
    return uintBitsToFloat(floatBitsToUint(t) | sign);
}

// The tanh form of GELU.
EXACT float exact_gelu(float x) {
    if (is_nan(x)) return canonical_nan();
    if (x > uintBitsToFloat(0x41200000u)) return x;                    // above 10
    if (x < uintBitsToFloat(0xc1200000u)) return uintBitsToFloat(0u);  // below -10
    if (magnitude_bits(x) < 0x01000000u) return uintBitsToFloat(0u);   // as in silu
    float inner = mad((x * x) * x, uintBitsToFloat(0x3d372713u), x) * uintBitsToFloat(0x3f4c422au);
    float half_x = x * uintBitsToFloat(0x3f000000u);
    return normal_or_zero(half_x * (exact_tanh(inner) + uintBitsToFloat(0x3f800000u)));
}

// ---- 16-bit formats -------------------------------------------------------------------------------------------------

// IEEE binary16 to f32, exact. NaN becomes 0x7fc00000.
EXACT float f16_decode(uint h) {
    uint sign = (h & 0x8000u) << 16;
    uint e = (h >> 10) & 31u, m = h & 0x3ffu;
    if (e == 31u) return m != 0u ? canonical_nan() : uintBitsToFloat(sign | 0x7f800000u);
    if (e != 0u) return uintBitsToFloat(sign | ((e + 112u) << 23) | (m << 13));
    if (m == 0u) return uintBitsToFloat(sign);
    uint top = uint(findMSB(m));
    return uintBitsToFloat(sign | ((top + 103u) << 23) | ((m << (23u - top)) & 0x007fffffu));
}

// f32 to IEEE binary16, nearest even, subnormals kept; NaN becomes 0x7e00.
EXACT uint f16_encode(float x) {
    uint b = magnitude_bits(x), sign = (floatBitsToUint(x) >> 16) & 0x8000u;
    if (b > 0x7f800000u) return 0x7e00u;
    if (b >= 0x477ff000u) return sign | 0x7c00u;  // 65520 and above
    if (b >= 0x38800000u) return sign | ((b - 0x38000000u + 0x0fffu + ((b >> 13) & 1u)) >> 13);
    if (b <= 0x33000000u) return sign;  // 2^-25 and below
    uint shift = 126u - (b >> 23);      // 14..24
    uint m = (b & 0x007fffffu) | 0x00800000u;
    uint down = m >> shift, rest = m & ((1u << shift) - 1u), half_way = 1u << (shift - 1u);
    return sign | (down + ((rest > half_way || (rest == half_way && (down & 1u) != 0u)) ? 1u : 0u));
}

// bfloat16 to f32, exact. NaN becomes 0x7fc00000.
EXACT float bf16_decode(uint h) {
    float x = uintBitsToFloat(h << 16);
    return is_nan(x) ? canonical_nan() : x;
}

// f32 to bfloat16, nearest even; subnormals are rounded like any other number; NaN becomes 0x7fc0.
EXACT uint bf16_encode(float x) {
    uint b = floatBitsToUint(x);
    if (is_nan(x)) return 0x7fc0u;
    return (b + 0x7fffu + ((b >> 16) & 1u)) >> 16;
}

// ---- MXFP4 ----------------------------------------------------------------------------------------------------------

// An e2m1 code doubled, an integer: 0, 1, 2, 3, 4, 6, 8, 12 and, with bit 3, the negatives (-0 for code 8).
EXACT float mxfp4_code(uint code) {
    float magnitude = float((0xc8643210u >> ((code & 7u) << 2)) & 15u);
    return uintBitsToFloat(floatBitsToUint(magnitude) | ((code & 8u) << 28));
}

// Half an e8m0 scale, to meet the doubled codes: 2^(s-128); +0 for scales below 2^-60; NaN for 255.
EXACT float mxfp4_half_scale(uint s) {
    if (s == 255u) return canonical_nan();
    return s < 67u ? uintBitsToFloat(0u) : uintBitsToFloat((s - 1u) << 23);
}

#ifdef __cplusplus
}  // inline namespace v1
}  // namespace vkmoe
#endif
#endif
