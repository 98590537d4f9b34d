// What a value is after it was a float16 that truncates: the reference engine's conversion, one text for GLSL and C++.
#ifndef VKMOE_FLOAT16_H
#define VKMOE_FLOAT16_H

#include "shaders/exact_math.h"

#ifdef __cplusplus
namespace vkmoe {
inline namespace v1 {
#endif

// Toward zero, to 11 significand bits, to multiples of 2^-24 below 2^-14; from 2^16 on infinity. Below 2^-23 the reference
// gives zero, not 2^-24.
EXACT float through_float16(float x) {
    uint b = floatBitsToUint(x), magnitude = b & 0x7fffffffu, sign = b & 0x80000000u;
    if (magnitude > 0x7f800000u) return canonical_nan();
    if (magnitude >= 0x47800000u) return uintBitsToFloat(sign | 0x7f800000u);
    if (magnitude >= 0x38800000u) return uintBitsToFloat(b & 0xffffe000u);
    int exponent = int(magnitude >> 23) - 112;
    if (exponent <= -10) return uintBitsToFloat(sign);
    uint multiple = ((b & 0x007fffffu) | 0x00800000u) >> uint(14 - exponent);
    float small = float(multiple) * uintBitsToFloat(0x33800000u);
    return uintBitsToFloat(sign | floatBitsToUint(small));
}

#ifdef __cplusplus
}  // inline namespace v1
}  // namespace vkmoe
#endif
#endif
