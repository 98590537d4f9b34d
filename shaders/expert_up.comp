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

const uint kHalfRows = kTileRows / 2u;

// The values of the thread's output in `rows` rows, those of gate in tile_w before those of up.
void store(Tile tile, uint first, uint rows) {
    uint output_ = tile.output_ + lane_index();
    if (output_ >= p.hidden_dim) return;
    for (uint row = 0u; row < rows; ++row) {
        uint at = (tile.first_row + first + row) * p.hidden_dim + output_;
        float gate = put_value(row), up = put_value(kHalfRows + row);
        float h = activate(gate, up, c_activation, p.swiglu_limit, p.swiglu_alpha);
        check_hidden(gate, up, h, p.status, at);
        p.hidden.at[at] = as_operand(h, c_operand_bits);
        keep_totals(at, gate, up);
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
    for (uint matrix = 0u; matrix < (c_activation == kRelu ? 1u : 2u); ++matrix) {  // up, then gate; without a gate up is both
        bool is_up = matrix == 0u;
        tile_dot(p.x, page, tile, is_up ? p.up_weight : p.gate_weight, is_up ? p.up_bias : p.gate_bias,
                 (c_bias & (is_up ? kBias : kGateBias)) != 0u, p.hidden_dim, p.model_dim, gate);
        if (is_up) up = gate;
    }
    for (uint first = 0u; first < tile.rows; first += kHalfRows) {  // tile_w has room for both of half the rows
        barrier();
        if (octet() / 2u == first / kHalfRows) {
            put_rows(octet() % 2u * 8u, gate);
            put_rows(kHalfRows + octet() % 2u * 8u, up);
        }
        memoryBarrierShared();
        barrier();
        store(tile, first, min(kHalfRows, tile.rows - first));
    }
}
