#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/kernel.glsl"
#include "shaders/panel.glsl"
#include "shaders/grad_panels.glsl"
// router_logits_backward: grad_x[t, i] = sum over e of grad_logits[t, e] * weight[e, i]; also that of a tied head.
//   in   grad_logits [tokens, experts] operands; weight [experts, model_dim] f32 panels (c_weight_format = kF32)
//   out  grad_x [tokens, model_dim]  (state rule)
// One workgroup a tile of 32 tokens x 64 outputs. Order R32 over the experts.
KERNEL(RouterLogitsBackward)

void main() {
    Tile tile;
    if (!find_dense_tile(p.tokens, 0u, p.model_dim, tile)) return;  // the workgroup
    place_rows(tile, p.experts);
    panels_dot(p.grad_logits, p.weight, tile, 0u, p.experts, p.model_dim);
    store_totals(p.grad_x, p.status, tile, p.model_dim);
}
