#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/kernel.glsl"
#include "shaders/panel.glsl"
#include "shaders/grad_lanes.glsl"
// expert_up_backward_lanes: expert_up_backward for software drivers; same inputs, outputs and bits; needs what
// lanes.glsl says. One workgroup a tile of 32 rows x kLanesOutputs outputs, c_tile_rows rows at a time.
KERNEL(ExpertUpBackward)

vec4 sums_of_both[kLanesRows];  // gate's and up's

#define KEEP_ROW(i, j) \
    if (i < c_tile_rows) sums_of_both[i] = matrix == 0u ? totals[i] : sums_of_both[i] + totals[i];

F32 gradient(bool is_gate) {
    if (is_gate) return p.grad_gate;
    return p.grad_up;
}

// First gate, then up; an expert without a gate has only up.
void run_rows(uint number, uvec4 outputs, uint row, uint end) {
    place_rows(row, end, p.hidden_dim);
    for (uint matrix = 0u; matrix < (c_activation == kRelu ? 1u : 2u); ++matrix) {
        bool is_gate = matrix == 0u && c_activation != kRelu;
        grad_lanes_dot(gradient(is_gate), p.pages.at[number], outputs, is_gate ? p.gate_weight : p.up_weight, p.hidden_dim, p.model_dim);
        VKMOE_EACH_ROW(KEEP_ROW, 0)
    }
}

void main() {
    uint columns = (p.model_dim + kLanesOutputs - 1u) / kLanesOutputs, number, first, end;
    if (!find_rows(p.offsets, p.tiles, p.tile_count, p.pages, p.rows, p.dense_page, group_index() / columns, number, first, end)) return;
    if (lanes_first(group_index() % columns) >= p.model_dim) return;  // the whole subgroup
    uvec4 outputs = lane_outputs(group_index() % columns);
    for (uint row = first; row < end; row += c_tile_rows) {
        run_rows(number, outputs, row, end);
        for (uint i = 0u; i < min(c_tile_rows, end - row); ++i)
            store_row(p.grad_x, p.status, row + i, outputs, sums_of_both[i], p.model_dim);
    }
}
