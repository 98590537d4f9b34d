#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/kernel.glsl"
#include "shaders/panel.glsl"
#include "shaders/expert_lanes.glsl"
// expert_down_lanes: expert_down for software drivers; same inputs, outputs and bits; needs subgroup broadcasts and subgroups of eight.
// One workgroup a tile of 32 rows x kLanesOutputs outputs, c_tile_rows rows at a time.
KERNEL(ExpertDown)

#define PLACE_ROW(i, j) \
    if (i < c_tile_rows) row_at[i] = min(row + i, end - 1u) * p.hidden_dim;

void store(uint row, uvec4 outputs, vec4 y) {
    for (uint i = 0u; i < 4u; ++i) {
        uint output_ = element_of(outputs, i), at = row * p.model_dim + output_;
        if (output_ < p.model_dim) p.y.at[at] = state_rule(checked(element_of(y, i), p.status, at));
    }
}

void main() {
    uint columns = (p.model_dim + kLanesOutputs - 1u) / kLanesOutputs, number, first, end;
    if (!find_rows(p.offsets, p.tiles, p.tile_count, p.pages, p.rows, p.dense_page, group_index() / columns, number, first, end)) return;
    U32 page = p.pages.at[number];
    if (lanes_first(group_index() % columns) >= p.model_dim) return;  // the whole subgroup
    uvec4 outputs = lane_outputs(group_index() % columns);
    for (uint row = first; row < end; row += c_tile_rows) {
        VKMOE_EACH_ROW(PLACE_ROW, 0)
        lanes_dot(p.hidden, page, outputs, p.model_dim, p.down_weight, p.down_bias, (c_bias & kBias) != 0u, p.hidden_dim);
        for (uint i = 0u; i < min(c_tile_rows, end - row); ++i) store(row + i, outputs, totals[i]);
    }
}
