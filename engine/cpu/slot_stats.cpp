#include "engine/cpu/twin.h"

namespace vkmoe {
inline namespace v1 {
namespace cpu {
namespace {

// The biased exponent of the largest |y|.
uint32_t largestExponent(const float* y, uint32_t count) {
    uint32_t largest = 0;
    for (uint32_t d = 0; d < count; ++d) largest = std::max(largest, magnitude_bits(y[d]));
    return largest >> 23;
}

float energyOf(const float* y, uint32_t count, float scale) {
    auto square = [&](uint32_t d) {
        float v = operand_rule(y[d] * scale);
        return v * v;
    };
    float total = 0;
    for (uint32_t first = 0; first < count; first += kBlock) {
        float s = square(first);
        for (uint32_t d = first + 1; d < std::min(first + kBlock, count); ++d) s = s + square(d);
        total = first == 0 ? s : total + s;
    }
    return total;
}

}  // namespace

void slot_stats(const SlotStats& p, const Constants&, Groups groups) {
    eachThread(groups, p.slots, [&](uint32_t slot) {
        const float* hidden = p.hidden.at + uint64_t{slot} * p.hidden_dim;
        uint32_t quiet = 0;
        for (uint32_t j = 0; j < p.hidden_dim; ++j) quiet += magnitude_bits(hidden[j]) < 0x3c23d70au ? 1 : 0;  // 0.01
        const float* y = p.y.at + uint64_t{slot} * p.model_dim;
        uint32_t exponent = largestExponent(y, p.model_dim);
        p.energy.at[slot] = state_rule(energyOf(y, p.model_dim, uintBitsToFloat((254 - exponent) << 23)));
        p.scale.at[slot] = exponent;
        p.quiet.at[slot] = quiet;
    });
}

}  // namespace cpu
}  // namespace v1
}  // namespace vkmoe
