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

void store(Tile tile, uint output_, vec4 y[8], uint component) {
    if (output_ >= p.model_dim) return;
    [[unroll]] for (uint i = 0u; i < 8u; ++i) {
        if (i >= tile.rows) continue;
        uint at = (tile.first_row + i) * p.model_dim + output_;
        p.y.at[at] = state_rule(checked(y[i][component], p.status, at));
    }
}

void main() {
    uint columns = (p.model_dim + kPanel * kTilePanels - 1u) / (kPanel * kTilePanels);
    Tile tile;
    if (!find_tile(p.offsets, p.tiles, p.tile_count, p.rows, p.dense_page, columns, tile)) return;
    U32 page = p.pages.at[tile.page];
    uint row_at[8];
    [[unroll]] for (uint i = 0u; i < 8u; ++i) row_at[i] = (tile.first_row + min(i, tile.rows - 1u)) * p.hidden_dim;
    vec4 y[8];
    tile_dot(p.hidden, row_at, page, tile, p.down_weight, p.down_bias, kBias, p.model_dim, p.hidden_dim, y);
    uint output_ = tile.panel * kPanel + tile.lane;
    store(tile, output_, y, 0u);
    store(tile, output_ + kPanel, y, 1u);
    store(tile, output_ + 2u * kPanel, y, 2u);
    store(tile, output_ + 3u * kPanel, y, 3u);
}
