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
//        c_keep_totals: gate_total (unless relu), up_total [slots, hidden_dim], gate and up themselves  (state rule)
// One workgroup a tile of 32 rows x 64 outputs. Order R32 over model_dim. The kernel gathers its rows itself.
KERNEL(ExpertUp)
#include "shaders/keep_totals.glsl"

void store(Tile tile, vec4 gate[8], vec4 up[8], uint component) {
    uint output_ = tile.output_ + first_output() + component;
    if (output_ >= p.hidden_dim) return;
    [[unroll]] for (uint i = 0u; i < 8u; ++i) {
        uint row = octet() * 8u + i, at = (tile.first_row + row) * p.hidden_dim + output_;
        if (row >= tile.rows) continue;
        float h = activate(gate[i][component], up[i][component], c_activation, p.swiglu_limit, p.swiglu_alpha);
        check_hidden(gate[i][component], up[i][component], h, p.status, at);
        p.hidden.at[at] = as_operand(h, c_operand_bits);
        keep_totals(at, gate[i][component], up[i][component]);
    }
}

void main() {
    Tile tile;
    if (!find_tile(p.offsets, p.tiles, p.tile_count, p.pages, p.rows, p.dense_page, p.hidden_dim, tile)) return;  // the workgroup
    U32 page = p.pages.at[tile.page];
    if (lane_index() < kTileRows) {
        uint row = tile.first_row + min(lane_index(), tile.rows - 1u);
        tile_row_at[lane_index()] = (c_dense != 0u ? row : p.token_of.at[row]) * p.model_dim;
    }
    memoryBarrierShared();
    vec4 gate[8], up[8];
    tile_dot(p.x, page, tile, p.up_weight, p.up_bias, kBias, p.hidden_dim, p.model_dim, up);
    if (c_activation != kRelu)
        tile_dot(p.x, page, tile, p.gate_weight, p.gate_bias, kGateBias, p.hidden_dim, p.model_dim, gate);
    else
        gate = up;
    store(tile, gate, up, 0u);
    store(tile, gate, up, 1u);
    store(tile, gate, up, 2u);
    store(tile, gate, up, 3u);
}
