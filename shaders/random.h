// Random numbers by position: a hash of (seed, row, column), one text for GLSL and C++, so that a draw depends on
// neither the batch nor the device.
#ifndef VKMOE_RANDOM_H
#define VKMOE_RANDOM_H

#include "shaders/exact_math.h"

#ifdef __cplusplus
namespace vkmoe {
inline namespace v1 {
#endif

// Every bit of x reaches every bit of the result (a bijection: xor-shifts and odd multipliers).
EXACT uint mix_bits(uint x) {
    x = (x ^ (x >> 16)) * 0x7feb352du;
    x = (x ^ (x >> 15)) * 0x846ca68bu;
    return x ^ (x >> 16);
}

EXACT uint random_bits(uint seed, uint row, uint column) {
    return mix_bits(mix_bits(mix_bits(seed + 0x9e3779b9u) ^ row) + column * 0x85ebca6bu);
}

// Uniform in [-1, 1), a multiple of 2^-23.
EXACT float random_signed(uint seed, uint row, uint column) {
    return float(int(random_bits(seed, row, column) >> 8) - 8388608) * uintBitsToFloat(0x34000000u);
}

#ifdef __cplusplus
}  // inline namespace v1
}  // namespace vkmoe
#endif
#endif
