#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/kernel.glsl"
#include "shaders/panel.glsl"
#include "shaders/grad_lanes.glsl"
// router_logits_backward_lanes: router_logits_backward for software drivers; same inputs, outputs and bits; needs what
// lanes.glsl says. One workgroup a tile of 32 rows x kLanesOutputs outputs, c_tile_rows rows at a time.
KERNEL(RouterLogitsBackward)

void main() {
    uint columns = (p.model_dim + kLanesOutputs - 1u) / kLanesOutputs;
    uint first = group_index() / columns * kTileRows, end = min(p.tokens, first + kTileRows);
    if (first >= p.tokens || lanes_first(group_index() % columns) >= p.model_dim) return;  // the whole subgroup
    uvec4 outputs = lane_outputs(group_index() % columns);
    for (uint row = first; row < end; row += c_tile_rows) {
        place_rows(row, end, p.experts);
        grad_lanes_dot(p.grad_logits, p.weight, outputs, 0u, p.experts, p.model_dim);
        for (uint i = 0u; i < min(c_tile_rows, end - row); ++i)
            store_row(p.grad_x, p.status, row + i, outputs, totals[i], p.model_dim);
    }
}
