#include "engine/cpu/simd/matrix_tile.h"

namespace vkmoe {
inline namespace v1 {
namespace simd {
namespace {

void downTile(const ExpertDown& p, const Constants& c, const TileRows& rows, uint32_t panel, uint32_t panels) {
    PanelTile tile;
    tile.row_count = rows.end - rows.first;
    tile.panel_count = std::min(panels, ceilDiv(p.model_dim, kPanel) - panel);
    for (uint32_t row = rows.first; row < rows.end; ++row)
        tile.rows[row - rows.first] = p.hidden.at + uint64_t{row} * p.hidden_dim;
    multiply(tile, {rows.page, p.down_weight, p.down_bias, p.model_dim, p.hidden_dim}, panel, c);
    uint32_t first = panel * kPanel, count = std::min(tile.panel_count * kPanel, p.model_dim - first);
    for (uint32_t r = 0; r < tile.row_count; ++r) {
        uint32_t at = (rows.first + r) * p.model_dim + first;
        for (uint32_t i = 0; i < count; ++i) p.y.at[at + i] = state_rule(checked(tile.totals[r][i], p.status, at + i));
    }
}

}  // namespace

// (MXFP4 has no SIMD form yet.)
void expert_down(const ExpertDown& p, const Constants& c, Groups groups) {
    if (c.weight_format == kMxfp4) return cpu::expert_down(p, c, groups);
    uint32_t columns = ceilDiv(p.model_dim, kPanel * kTilePanels);
    for (uint64_t group = groups.begin; group < groups.end; ++group) {
        TileRows tile = findTile(p, c, group / columns);
        if (tile.first < tile.end)
            downTile(p, c, tile, static_cast<uint32_t>(group % columns) * kTilePanels, kTilePanels);
    }
}

void expert_down_gemv(const ExpertDown& p, const Constants& c, Groups groups) {
    if (c.weight_format == kMxfp4) return cpu::expert_down_gemv(p, c, groups);
    uint32_t panels = ceilDiv(p.model_dim, kPanel);
    uint64_t end = std::min<uint64_t>(groups.end, uint64_t{gemvRows(p, c)} * panels);
    for (uint64_t group = groups.begin; group < end;) {
        uint32_t row = static_cast<uint32_t>(group / panels), panel = static_cast<uint32_t>(group % panels);
        uint32_t count = static_cast<uint32_t>(std::min<uint64_t>({end - group, kTilePanels, panels - panel}));
        downTile(p, c, {pageOfSlot(p, c, row), row, row + 1}, panel, count);
        group += count;
    }
}

}  // namespace simd
}  // namespace v1
}  // namespace vkmoe
