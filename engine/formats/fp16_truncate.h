// The reference engine's float16, as its MoE0 files hold it. Not IEEE conversion: use it for these files alone.
//
// Encoding drops the mantissa's low bits where IEEE would round to nearest, so magnitudes shrink by up to 2^-10 of
// themselves. Decoding is exact, except that every pattern with the sign bit and a full exponent, thus also a negative
// NaN, becomes minus infinity. Encoding a decoded finite number gives its bits back.
#pragma once

#include <cstdint>

namespace vkmoe::formats {

// Toward zero: 65504 up to below 65536 become 65504, from 65536 on infinity, below 2^-24 a signed zero, a NaN 0x7e00.
uint16_t fp16TruncateEncode(float value);

float fp16TruncateDecode(uint16_t bits);

}  // namespace vkmoe::formats
