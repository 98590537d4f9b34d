#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/kernel.glsl"
#include "shaders/panel.glsl"
#include "shaders/expert_gemv.glsl"
#include "shaders/activation.h"
#include "shaders/check_hidden.glsl"
// expert_up_gemv: expert_up for few tokens; same inputs, outputs and bits.
// One workgroup a slot and a panel of 16 outputs (workgroups: rows * ceil(hidden_dim/16)); `tiles` is not read.
KERNEL(ExpertUp)
#include "shaders/keep_totals.glsl"

void main() {
    uint panels = (p.hidden_dim + kPanel - 1u) / kPanel;
    uint slot = group_index() / panels, panel = group_index() % panels;
    if (slot >= (c_dense != 0u ? p.rows : p.offsets.at[p.experts])) return;  // the whole workgroup
    uint expert = c_dense != 0u ? p.dense_page : expert_of_slot(p.offsets, p.experts, slot);
    if (c_dense == 0u && !is_here(p.pages, expert)) return;  // the whole workgroup
    uint row = (c_dense != 0u ? slot : p.token_of.at[slot]) * p.model_dim;
    U32 page = p.pages.at[expert];
    float up = row_dot(p.x, row, page, p.up_weight, p.up_bias, kBias, panel, p.hidden_dim, p.model_dim);
    float gate = up;
    if (c_activation != kRelu)
        gate = row_dot(p.x, row, page, p.gate_weight, p.gate_bias, kGateBias, panel, p.hidden_dim, p.model_dim);
    uint output_ = panel * kPanel + lane_index() % kPanel;
    if (lane_index() >= kPanel || output_ >= p.hidden_dim) return;
    uint at = slot * p.hidden_dim + output_;
    float h = activate(gate, up, c_activation, p.swiglu_limit, p.swiglu_alpha);
    check_hidden(gate, up, h, p.status, at);
    p.hidden.at[at] = as_operand(h, c_operand_bits);
    keep_totals(at, gate, up);
}
