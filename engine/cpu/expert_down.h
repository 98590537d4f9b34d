// What the twins of expert_down, its GEMV and its lanes form share: one output of one row.
#pragma once

#include "engine/cpu/expert_outputs.h"

namespace vkmoe {
inline namespace v1 {
namespace cpu {

inline void downOutput(const ExpertDown& p, const Constants& c, const uint32_t* page, uint32_t row, uint32_t output) {
    const float* hidden = p.hidden.at + uint64_t{row} * p.hidden_dim;
    float y = pageDot(hidden, page, p.down_weight, p.down_bias, output, p.hidden_dim, c);
    uint32_t at = row * p.model_dim + output;
    p.y.at[at] = state_rule(checked(y, p.status, at));
}

}  // namespace cpu
}  // namespace v1
}  // namespace vkmoe
