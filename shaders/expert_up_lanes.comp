#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/kernel.glsl"
#include "shaders/panel.glsl"
#include "shaders/expert_lanes.glsl"
#include "shaders/activation.h"
#include "shaders/check_hidden.glsl"
// expert_up_lanes: expert_up for software drivers; same inputs, outputs and bits; needs what lanes.glsl says.
// One workgroup a tile of 32 rows x kLanesOutputs outputs, c_tile_rows rows at a time.
KERNEL(ExpertUp)
#include "shaders/keep_totals.glsl"

vec4 gate[kLanesRows], up[kLanesRows];

#define PLACE_TOKEN(i, j) \
    if (i < c_tile_rows) row_at[i] = (c_dense != 0u ? min(row + i, end - 1u) : p.token_of.at[min(row + i, end - 1u)]) * p.model_dim;
#define KEEP_ROW(i, j)                                  \
    if (i < c_tile_rows) {                              \
        up[i] = matrix == 0u ? totals[i] : gate[i];     \
        gate[i] = totals[i];                            \
    }

// First up, then gate; an expert without a gate is its own.
void run_rows(U32 page, uvec4 outputs, uint row, uint end) {
    VKMOE_EACH_ROW(PLACE_TOKEN, 0)
    for (uint matrix = 0u; matrix < (c_activation == kRelu ? 1u : 2u); ++matrix) {
        bool is_up = matrix == 0u;
        lanes_dot(p.x, page, outputs, p.hidden_dim, is_up ? p.up_weight : p.gate_weight, is_up ? p.up_bias : p.gate_bias,
                  (c_bias & (is_up ? kBias : kGateBias)) != 0u, p.model_dim);
        VKMOE_EACH_ROW(KEEP_ROW, 0)
    }
}

void store(uint row, uint output_, float g, float u) {
    if (output_ >= p.hidden_dim) return;
    uint at = row * p.hidden_dim + output_;
    float h = activate(g, u, c_activation, p.swiglu_limit, p.swiglu_alpha);
    check_hidden(g, u, h, p.status, at);
    p.hidden.at[at] = as_operand(h, c_operand_bits);
    keep_totals(at, g, u);
}

void main() {
    uint columns = (p.hidden_dim + kLanesOutputs - 1u) / kLanesOutputs, number, first, end;
    if (!find_rows(p.offsets, p.tiles, p.tile_count, p.pages, p.rows, p.dense_page, group_index() / columns, number, first, end)) return;
    U32 page = p.pages.at[number];
    if (lanes_first(group_index() % columns) >= p.hidden_dim) return;  // the whole subgroup
    uvec4 outputs = lane_outputs(group_index() % columns);
    for (uint row = first; row < end; row += c_tile_rows) {
        run_rows(page, outputs, row, end);
        for (uint i = 0u; i < 4u * min(c_tile_rows, end - row); ++i)
            store(row + i / 4u, element_of(outputs, i % 4u), element_of(gate[i / 4u], i % 4u), element_of(up[i / 4u], i % 4u));
    }
}
