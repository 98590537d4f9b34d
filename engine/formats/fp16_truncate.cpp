#include "engine/formats/fp16_truncate.h"

#include <bit>

namespace vkmoe::formats {

uint16_t fp16TruncateEncode(float value) {
    const uint32_t bits = std::bit_cast<uint32_t>(value);
    const uint32_t sign = bits >> 16 & 0x8000;
    const uint32_t mantissa = bits & 0x7fffff;
    const int exponent = static_cast<int>(bits >> 23 & 0xff) - 112;  // of the float16

    uint32_t magnitude = 0;
    if (exponent == 255 - 112 && mantissa != 0)
        magnitude = 0x7e00;  // a NaN; its payload is dropped
    else if (exponent >= 31)
        magnitude = 0x7c00;
    else if (exponent >= 1)
        magnitude = static_cast<uint32_t>(exponent) << 10 | mantissa >> 13;
    else if (exponent >= -10)
        magnitude = (mantissa | 0x800000) >> (14 - exponent);  // a subnormal float16
    return static_cast<uint16_t>(sign | magnitude);
}

float fp16TruncateDecode(uint16_t bits) {
    const uint32_t sign = static_cast<uint32_t>(bits & 0x8000) << 16;
    const uint32_t exponent = bits >> 10 & 31;
    const uint32_t mantissa = bits & 0x3ff;

    if (exponent == 31 && sign == 0 && mantissa != 0) return std::bit_cast<float>(0x7fc00000u);
    if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000u);
    if (exponent != 0) return std::bit_cast<float>(sign | (exponent + 112) << 23 | mantissa << 13);
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;  // exact
    return sign != 0 ? -magnitude : magnitude;
}

}  // namespace vkmoe::formats
