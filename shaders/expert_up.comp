#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/kernel.glsl"
#include "shaders/panel.glsl"
#include "shaders/expert_tile.glsl"
#include "shaders/activation.h"
#include "shaders/check_hidden.glsl"
// expert_up: hidden[slot] = activation(gate, up), gate|up = bias + weight * x[token of slot], as a grouped GEMM.
//   in   x [tokens, model_dim] operands; the page of each expert: gate, up panels [hidden_dim, model_dim] in c_weight_format, biases
//        tiles, offsets, token_of from bin_tokens; with c_dense every token goes to dense_page and rows are tokens
//   out  hidden [slots, hidden_dim], rounded to c_operand_bits, operand rule
// One workgroup a tile of 32 rows x 64 outputs. Order R32 over model_dim. The kernel gathers its rows itself.
KERNEL(ExpertUp)

void store(Tile tile, uint output_, vec4 gate[8], vec4 up[8], uint component) {
    if (output_ >= p.hidden_dim) return;
    [[unroll]] for (uint i = 0u; i < 8u; ++i) {
        if (i >= tile.rows) continue;
        uint at = (tile.first_row + i) * p.hidden_dim + output_;
        float h = activate(gate[i][component], up[i][component], c_activation, p.swiglu_limit, p.swiglu_alpha);
        check_hidden(gate[i][component], up[i][component], h, p.status, at);
        p.hidden.at[at] = as_operand(h, c_operand_bits);
    }
}

void main() {
    uint columns = (p.hidden_dim + kPanel * kTilePanels - 1u) / (kPanel * kTilePanels);
    Tile tile;
    if (!find_tile(p.offsets, p.tiles, p.tile_count, p.rows, p.dense_page, columns, tile)) return;
    U32 page = p.pages.at[tile.page];
    uint row_at[8];
    [[unroll]] for (uint i = 0u; i < 8u; ++i) {
        uint row = tile.first_row + min(i, tile.rows - 1u);
        row_at[i] = (c_dense != 0u ? row : p.token_of.at[row]) * p.model_dim;
    }
    vec4 gate[8], up[8];
    tile_dot(p.x, row_at, page, tile, p.up_weight, p.up_bias, kBias, p.hidden_dim, p.model_dim, up);
    if (c_activation != kRelu)
        tile_dot(p.x, row_at, page, tile, p.gate_weight, p.gate_bias, kGateBias, p.hidden_dim, p.model_dim, gate);
    else
        gate = up;
    uint output_ = tile.panel * kPanel + tile.lane;
    store(tile, output_, gate, up, 0u);
    store(tile, output_ + kPanel, gate, up, 1u);
    store(tile, output_ + 2u * kPanel, gate, up, 2u);
    store(tile, output_ + 3u * kPanel, gate, up, 3u);
}
