#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/kernel.glsl"
#include "shaders/panel.glsl"
#include "shaders/expert_tile.glsl"
// expert_down: y[slot] = bias + weight * hidden[slot], as a grouped GEMM.
//   in   hidden [slots, hidden_dim] operands; the page of each expert: down panels [model_dim, hidden_dim] in c_weight_format, bias
//        tiles, offsets from bin_tokens; with c_dense every row goes to dense_page
//   out  y [slots, model_dim]  (state rule)
// One workgroup a tile of 32 rows x 64 outputs. Order R32 over hidden_dim.
KERNEL(ExpertDown)

void main() {
    Tile tile;
    if (!find_tile(p.offsets, p.tiles, p.tile_count, p.pages, p.rows, p.dense_page, p.model_dim, tile)) return;  // the workgroup
    U32 page = p.pages.at[tile.page];
    if (lane_index() < kTileRows)
        tile_row_at[lane_index()] = (tile.first_row + min(lane_index(), tile.rows - 1u)) * p.hidden_dim;
    memoryBarrierShared();
    vec4 y[8];
    tile_dot(p.hidden, page, tile, p.down_weight, p.down_bias, (c_bias & kBias) != 0u, p.model_dim, p.hidden_dim, y);
    barrier();
    put_rows(octet() * 8u, y);
    memoryBarrierShared();
    barrier();
    uint output_ = tile.output_ + lane_index();
    if (output_ >= p.model_dim) return;
    for (uint row = 0u; row < tile.rows; ++row) {
        uint at = (tile.first_row + row) * p.model_dim + output_;
        p.y.at[at] = state_rule(checked(put_value(row), p.status, at));
    }
}
