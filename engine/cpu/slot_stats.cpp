#include "engine/cpu/twin.h"

namespace vkmoe {
inline namespace v1 {
namespace cpu {
namespace {

float energyOf(const float* y, uint32_t count) {
    auto square = [&](uint32_t d) { return operand_rule(y[d]) * operand_rule(y[d]); };
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
        p.energy.at[slot] = state_rule(energyOf(p.y.at + uint64_t{slot} * p.model_dim, p.model_dim));
        p.quiet.at[slot] = quiet;
    });
}

}  // namespace cpu
}  // inline namespace v1
}  // namespace vkmoe
