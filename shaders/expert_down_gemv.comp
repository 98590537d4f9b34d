#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/kernel.glsl"
#include "shaders/panel.glsl"
#include "shaders/expert_gemv.glsl"
// expert_down_gemv: expert_down for few tokens; same inputs, outputs and bits.
// One workgroup a slot and a panel of 16 outputs (workgroups: rows * ceil(model_dim/16)); `tiles` is not read.
KERNEL(ExpertDown)

void main() {
    uint panels = (p.model_dim + kPanel - 1u) / kPanel;
    uint slot = group_index() / panels, panel = group_index() % panels;
    if (slot >= (c_dense != 0u ? p.rows : p.offsets.at[p.experts])) return;  // the whole workgroup
    uint expert = c_dense != 0u ? p.dense_page : expert_of_slot(p.offsets, p.experts, slot);
    if (c_dense == 0u && !is_here(p.pages, expert)) return;  // the whole workgroup
    U32 page = p.pages.at[expert];
    float y = row_dot(p.hidden, slot * p.hidden_dim, page, p.down_weight, p.down_bias, (c_bias & kBias) != 0u, panel, p.model_dim, p.hidden_dim);
    uint output_ = panel * kPanel + lane_index() % kPanel;
    if (lane_index() >= kPanel || output_ >= p.model_dim) return;
    uint at = slot * p.model_dim + output_;
    p.y.at[at] = state_rule(checked(y, p.status, at));
}
