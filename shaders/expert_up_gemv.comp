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
    float gate, up;
    for (uint matrix = 0u; matrix < (c_activation == kRelu ? 1u : 2u); ++matrix) {  // up, then gate; without a gate up is both
        bool is_up = matrix == 0u;
        gate = row_dot(p.x, row, page, is_up ? p.up_weight : p.gate_weight, is_up ? p.up_bias : p.gate_bias,
                       (c_bias & (is_up ? kBias : kGateBias)) != 0u, panel, p.hidden_dim, p.model_dim);
        if (is_up) up = gate;
    }
    uint output_ = panel * kPanel + lane_index() % kPanel;
    if (lane_index() >= kPanel || output_ >= p.hidden_dim) return;
    uint at = slot * p.hidden_dim + output_;
    float h = activate(gate, up, c_activation, p.swiglu_limit, p.swiglu_alpha);
    check_hidden(gate, up, h, p.status, at);
    p.hidden.at[at] = as_operand(h, c_operand_bits);
    keep_totals(at, gate, up);
}
