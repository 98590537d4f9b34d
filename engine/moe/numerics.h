// What a precision means for a weight format.
#pragma once

#include "vkmoe/description.h"

namespace vkmoe {
inline namespace v1 {

// Significand bits an activation is rounded to before it meets weights of `format`: 24 minus the weight's own in
// rounded precision, so that every product is exact; 24 (not rounded) in exact precision and for f32 weights.
inline uint32_t operandBits(WeightFormat format, Precision precision) {
    if (precision == Precision::exact || format == WeightFormat::f32) return 24;
    return format == WeightFormat::f16 ? 13 : format == WeightFormat::bf16 ? 16 : 22;
}

}  // namespace v1
}  // namespace vkmoe
