#include "engine/cpu/simd/epilogue.h"
#include "engine/cpu/simd/matrix_tile.h"
#include "engine/cpu/simd/tile_walk.h"

namespace vkmoe {
inline namespace v1 {
namespace simd {
namespace {

void store(const ExpertUp& p, const Constants& c, const PanelTile& gate, const PanelTile& up, uint32_t first_row,
           uint32_t first) {
    uint32_t count = std::min(up.panel_count * kPanel, p.hidden_dim - first);
    for (uint32_t r = 0; r < up.row_count; ++r)
        storeHidden({p.hidden.at, p.status, (first_row + r) * p.hidden_dim + first, count}, gate.totals[r],
                    up.totals[r], c, p.swiglu_limit, p.swiglu_alpha);
}

// Rows [rows.first, rows.end) by up to `panels` panels from `panel`.
void upTile(const ExpertUp& p, const Constants& c, const TileRows& rows, uint32_t panel, uint32_t panels) {
    PanelTile up;
    up.row_count = rows.end - rows.first;
    up.panel_count = std::min(panels, ceilDiv(p.hidden_dim, kPanel) - panel);
    for (uint32_t row = rows.first; row < rows.end; ++row)
        up.rows[row - rows.first] = p.x.at + uint64_t{c.dense != 0 ? row : p.token_of.at[row]} * p.model_dim;
    multiply(up, {rows.page, p.up_weight, p.up_bias, p.hidden_dim, p.model_dim}, panel, c, kBias);
    if (c.activation == kRelu) return store(p, c, up, up, rows.first, panel * kPanel);
    PanelTile gate;
    gate.row_count = up.row_count;
    gate.panel_count = up.panel_count;
    std::copy_n(up.rows, up.row_count, gate.rows);
    multiply(gate, {rows.page, p.gate_weight, p.gate_bias, p.hidden_dim, p.model_dim}, panel, c, kGateBias);
    store(p, c, gate, up, rows.first, panel * kPanel);
}

}  // namespace

void expert_up(const ExpertUp& p, const Constants& c, Groups groups) {
    eachTile(p, c, groups, ceilDiv(p.hidden_dim, kPanel * kTilePanels),
             [&](const TileRows& rows, uint32_t panel) { upTile(p, c, rows, panel, kTilePanels); });
}

void expert_up_gemv(const ExpertUp& p, const Constants& c, Groups groups) {
    eachRow(p, c, groups, ceilDiv(p.hidden_dim, kPanel),
            [&](const TileRows& rows, uint32_t panel, uint32_t panels) { upTile(p, c, rows, panel, panels); });
}

}  // namespace simd
}  // namespace v1
}  // namespace vkmoe
