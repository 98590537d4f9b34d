// What the twins of expert_up, its GEMV and its lanes form share: one output of one row.
#pragma once

#include "engine/cpu/expert_outputs.h"

namespace vkmoe {
inline namespace v1 {
namespace cpu {

inline void upOutput(const ExpertUp& p, const Constants& c, const uint32_t* page, uint32_t row, uint32_t output) {
    const float* x = p.x.at + uint64_t{c.dense != 0 ? row : p.token_of.at[row]} * p.model_dim;
    float up = pageDot(x, page, p.up_weight, p.up_bias, output, p.model_dim, c), gate = up;
    if (c.activation != kRelu) gate = pageDot(x, page, p.gate_weight, p.gate_bias, output, p.model_dim, c, kGateBias);
    uint32_t at = row * p.hidden_dim + output;
    float h = activate(gate, up, c.activation, p.swiglu_limit, p.swiglu_alpha);
    checkHidden(gate, up, h, p.status, at);
    p.hidden.at[at] = as_operand(h, c.operand_bits);
    if (c.keep_totals == 0) return;
    if (c.activation != kRelu) p.gate_total.at[at] = state_rule(gate);
    p.up_total.at[at] = state_rule(up);
}

}  // namespace cpu
}  // namespace v1
}  // namespace vkmoe
