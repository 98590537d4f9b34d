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

void store_row(uint row, uint output_, vec4 y) {
    for (uint c = 0u; c < 4u; ++c) {
        uint o = output_ + c * kPanel, at = row * p.model_dim + o;
        float value = c == 0u ? y.x : c == 1u ? y.y : c == 2u ? y.z : y.w;
        if (o < p.model_dim) p.y.at[at] = state_rule(checked(value, p.status, at));
    }
}

void main() {
    uint columns = (p.model_dim + kPanel * kTilePanels - 1u) / (kPanel * kTilePanels);
    Tile tile;
    if (!find_tile(p.offsets, p.tiles, p.tile_count, p.rows, p.dense_page, columns, tile)) return;
    U32 page = p.pages.at[tile.page];
    RowStarts row_at;
#define ROW_START(i) row_at.r##i = (tile.first_row + min(uint(i), tile.rows - 1u)) * p.hidden_dim;
    EACH_ROW(ROW_START)
    Rows y = tile_dot(p.hidden, row_at, page, tile, p.down_weight, p.down_bias, p.model_dim, p.hidden_dim);
    uint output_ = tile.panel * kPanel + tile.lane;
#define STORE(i) if (uint(i) < tile.rows) store_row(tile.first_row + uint(i), output_, y.r##i);
    EACH_ROW(STORE)
}
