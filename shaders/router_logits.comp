#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/kernel.glsl"
#include "shaders/panel.glsl"
// router_logits: logits[t, e] = bias[e] + sum_k x[t, k] * weight[e, k]
//   in   x [tokens, model_dim] operands; weight [experts, model_dim] f32 panels (c_weight_format = kF32); bias [experts] if c_bias
//   out  logits [tokens, experts]  (state rule)
// One thread a logit, sixteen neighbouring threads one panel. Order R32 over k. The router is f32 in both precisions, so
// routes never depend on the precision.
KERNEL(RouterLogits)

void main() {
    uint i = thread_index(), lane = i % kPanel, panels = (p.experts + kPanel - 1u) / kPanel;
    uint panel = i / kPanel % panels, token = i / kPanel / panels, expert = panel * kPanel + lane;
    if (token >= p.tokens || expert >= p.experts) return;
    uint base = panel * p.model_dim * kPanel, row = token * p.model_dim;
    float total = block_dot(p.x, row, p.weight, base, lane, 0u, min(kBlock, p.model_dim));
    if (c_bias != 0u) total = p.bias.at[expert] + total;
    for (uint k0 = kBlock; k0 < p.model_dim; k0 += kBlock)
        total = total + block_dot(p.x, row, p.weight, base, lane, k0, min(k0 + kBlock, p.model_dim));
    uint at = token * p.experts + expert;
    p.logits.at[at] = state_rule(checked(total, p.status, at));
}
