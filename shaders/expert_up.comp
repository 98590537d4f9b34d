#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/kernel.glsl"
#include "shaders/panel.glsl"
#include "shaders/expert_tile.glsl"
#include "shaders/activation.glsl"
// expert_up: hidden[slot] = activation(gate, up), gate|up = bias + weight * x[token of slot], as a grouped GEMM.
//   in   x [tokens, model_dim] operands; the page of each expert: gate, up panels [hidden_dim, model_dim] in c_weight_format, biases
//        tiles, offsets, token_of from bin_tokens; with c_dense every token goes to dense_page and rows are tokens
//   out  hidden [slots, hidden_dim], rounded to c_operand_bits, operand rule
// One workgroup a tile of 32 rows x 64 outputs. Order R32 over model_dim. The kernel gathers its rows itself.
KERNEL(ExpertUp)

void store_row(uint row, uint output_, vec4 gate, vec4 up) {
    for (uint c = 0u; c < 4u; ++c) {
        uint o = output_ + c * kPanel, at = row * p.hidden_dim + o;
        float g = c == 0u ? gate.x : c == 1u ? gate.y : c == 2u ? gate.z : gate.w;
        float u = c == 0u ? up.x : c == 1u ? up.y : c == 2u ? up.z : up.w;
        if (o < p.hidden_dim) p.hidden.at[at] = as_operand(checked(activate(g, u), p.status, at), c_operand_bits);
    }
}

void main() {
    uint columns = (p.hidden_dim + kPanel * kTilePanels - 1u) / (kPanel * kTilePanels);
    Tile tile;
    if (!find_tile(p.offsets, p.tiles, p.tile_count, p.rows, p.dense_page, columns, tile)) return;
    U32 page = p.pages.at[tile.page];
    RowStarts row_at;
#define ROW(i) (tile.first_row + min(uint(i), tile.rows - 1u))
#define ROW_START(i) row_at.r##i = (c_dense != 0u ? ROW(i) : p.token_of.at[ROW(i)]) * p.model_dim;
    EACH_ROW(ROW_START)
    Rows up = tile_dot(p.x, row_at, page, tile, p.up_weight, p.up_bias, p.hidden_dim, p.model_dim);
    Rows gate = up;
    if (c_activation != kRelu) gate = tile_dot(p.x, row_at, page, tile, p.gate_weight, p.gate_bias, p.hidden_dim, p.model_dim);
    uint output_ = tile.panel * kPanel + tile.lane;
#define STORE(i) if (uint(i) < tile.rows) store_row(tile.first_row + uint(i), output_, gate.r##i, up.r##i);
    EACH_ROW(STORE)
}
