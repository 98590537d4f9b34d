#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/kernel.glsl"
#include "shaders/panel.glsl"
#include "shaders/grad_panels.glsl"
// expert_down_backward: grad_hidden[slot, f] = sum over d of grad_y[slot, d] * weight[d, f], as a grouped GEMM.
//   in   grad_y [slots, model_dim] operands; the page of each expert: down panels [model_dim, hidden_dim], kF32 or kBf16
//        tiles, offsets from bin_tokens; with c_dense every row goes to dense_page
//   out  grad_hidden [slots, hidden_dim]  (state rule)
// One workgroup a tile of 32 rows x 64 outputs. Order R32 over model_dim. With c_fused grad_y has at most 16 bits.
KERNEL(ExpertDownBackward)

void main() {
    Tile tile;
    if (!find_tile(p.offsets, p.tiles, p.tile_count, p.pages, p.rows, p.dense_page, p.hidden_dim, tile)) return;  // the workgroup
    U32 page = p.pages.at[tile.page];
    place_rows(tile, p.model_dim);
    panels_dot(p.grad_y, page, tile, p.down_weight, p.model_dim, p.hidden_dim);
    store_totals(p.grad_hidden, p.status, tile, p.hidden_dim);
}
