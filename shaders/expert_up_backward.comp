#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/kernel.glsl"
#include "shaders/panel.glsl"
#include "shaders/grad_panels.glsl"
// expert_up_backward: grad_x[slot, i] = sum over f of grad_gate[slot, f] * gate[f, i], then + the same of up; relu: only up.
//   in   grad_gate, grad_up [slots, hidden_dim] operands
//        the page of each expert: gate, up panels [hidden_dim, model_dim], kF32 or kBf16
//        tiles, offsets from bin_tokens; with c_dense every row goes to dense_page
//   out  grad_x [slots, model_dim]  (state rule)
// One workgroup a tile of 32 rows x 64 outputs. Order R32 over hidden_dim, twice. With c_fused the gradients have at most
// 16 bits.
KERNEL(ExpertUpBackward)

void main() {
    Tile tile;
    if (!find_tile(p.offsets, p.tiles, p.tile_count, p.pages, p.rows, p.dense_page, p.model_dim, tile)) return;  // the workgroup
    U32 page = p.pages.at[tile.page];
    place_rows(tile, p.hidden_dim);
    vec4 gate[8];
    if (c_activation != kRelu) {
        panels_dot(p.grad_gate, page, tile, p.gate_weight, p.hidden_dim, p.model_dim);
        gate = totals;
    }
    panels_dot(p.grad_up, page, tile, p.up_weight, p.hidden_dim, p.model_dim);
    if (c_activation != kRelu)
        [[unroll]] for (uint i = 0u; i < 8u; ++i) totals[i] = gate[i] + totals[i];
    store_totals(p.grad_x, p.status, tile, p.model_dim);
}
