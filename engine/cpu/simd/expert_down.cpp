#include "engine/cpu/simd/epilogue.h"
#include "engine/cpu/simd/matrix_tile.h"
#include "engine/cpu/simd/tile_walk.h"

namespace vkmoe {
inline namespace v1 {
namespace simd {
namespace {

void downTile(const ExpertDown& p, const Constants& c, const TileRows& rows, RowsView x, uint32_t panel,
              uint32_t panels) {
    PanelTile tile;
    tile.x = x;
    tile.row_count = rows.end - rows.first;
    const PageMatrix down{rows.page, p.down_weight, p.down_bias, p.model_dim, p.hidden_dim};
    tile.panel_count = std::min(panels, down.panels() - panel);
    tile.next = down.panelAt(panel + panels, c.weight_format);
    multiply(tile, down, panel, c);
    for (uint32_t i = 0; i < tile.panel_count; i += kTilePanels) {
        uint32_t first = (panel + i) * kPanel, stored = std::min(uint32_t{kTilePanels}, tile.panel_count - i);
        storeState({p.y.at, p.status, rows.first * p.model_dim + first, p.model_dim, tile.row_count,
                    std::min(stored * kPanel, p.model_dim - first)},
                   tile.totals + i / kTilePanels);
    }
}

auto rowsOf(const ExpertDown& p) {
    return [&](uint32_t row) { return p.hidden.at + uint64_t{row} * p.hidden_dim; };
}

}  // namespace

void expert_down(const ExpertDown& p, const Constants& c, Groups groups) {
    eachTile(p, c, groups, ceilDiv(p.model_dim, kPanel * kTilePanels), p.hidden_dim, rowsOf(p),
             [&](const TileRows& rows, RowsView x, uint32_t panel) { downTile(p, c, rows, x, panel, kTilePanels); });
}

void expert_down_gemv(const ExpertDown& p, const Constants& c, Groups groups) {
    eachRow(p, c, groups, ceilDiv(p.model_dim, kPanel), kRowPanels, p.hidden_dim, rowsOf(p),
            [&](const TileRows& rows, RowsView x, uint32_t panel, uint32_t panels) {
                downTile(p, c, rows, x, panel, panels);
            });
}

}  // namespace simd
}  // namespace v1
}  // namespace vkmoe
