#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/kernel.glsl"
#include "shaders/panel.glsl"
#include "shaders/expert_lanes.glsl"
// expert_down_lanes: expert_down for software drivers; same inputs, outputs and bits; needs what lanes.glsl says.
// One workgroup a tile of 32 rows x kLanesOutputs outputs, c_tile_rows rows at a time.
KERNEL(ExpertDown)

void main() {
    uint columns = (p.model_dim + kLanesOutputs - 1u) / kLanesOutputs, number, first, end;
    if (!find_rows(p.offsets, p.tiles, p.tile_count, p.pages, p.rows, p.dense_page, group_index() / columns, number, first, end)) return;
    U32 page = p.pages.at[number];
    if (lanes_first(group_index() % columns) >= p.model_dim) return;  // the whole subgroup
    uvec4 outputs = lane_outputs(group_index() % columns);
    for (uint row = first; row < end; row += c_tile_rows) {
        place_rows(row, end, p.hidden_dim);
        lanes_dot(p.hidden, page, outputs, p.model_dim, p.down_weight, p.down_bias, (c_bias & kBias) != 0u, p.hidden_dim);
        for (uint i = 0u; i < min(c_tile_rows, end - row); ++i) store_row(p.y, p.status, row + i, outputs, totals[i], p.model_dim);
    }
}
