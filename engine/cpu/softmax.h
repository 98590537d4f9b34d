// The softmax over a token's experts, with the bits of exact_math.h.
#pragma once

#include "engine/cpu/sums.h"
#include "shaders/exact_math.h"

namespace vkmoe {
inline namespace v1 {

// exact_div: the processor divides correctly rounded, too, where neither operand nor quotient is special.
inline float divide(float a, float b) {
    float q = a / b;
    uint32_t bits = magnitude_bits(q);
    return bits >= 0x01000000u && bits < 0x7f800000u ? q : exact_div(a, b);
}

struct Softmax {
    float largest, sum;  // the largest logit; the sum of exp(logit - largest), order R32
};

// Writes `count` probabilities, count above 0.
inline Softmax softmaxOf(const float* logits, uint32_t count, float* probabilities) {
    const float largest = *std::max_element(logits, logits + count);
    for (uint32_t e = 0; e < count; ++e) probabilities[e] = exact_exp(logits[e] - largest);
    const float sum = sumR32(count, [&](uint32_t e) { return probabilities[e]; });
    for (uint32_t e = 0; e < count; ++e) probabilities[e] = divide(probabilities[e], sum);
    return {largest, sum};
}

}  // namespace v1
}  // namespace vkmoe
