#include "engine/cpu/simd/matrix_tile.h"

namespace vkmoe {
inline namespace v1 {
namespace simd {
namespace {

void store(const ExpertUp& p, const Constants& c, const PanelTile& gate, const PanelTile& up, uint32_t first_row,
           uint32_t first) {
    uint32_t count = std::min(up.panel_count * kPanel, p.hidden_dim - first);
    for (uint32_t r = 0; r < up.row_count; ++r) {
        uint32_t at = (first_row + r) * p.hidden_dim + first;
        for (uint32_t i = 0; i < count; ++i) {
            float h = activate(gate.totals[r][i], up.totals[r][i], c.activation, p.swiglu_limit, p.swiglu_alpha);
            checkHidden(gate.totals[r][i], up.totals[r][i], h, p.status, at + i);
            p.hidden.at[at + i] = as_operand(h, c.operand_bits);
        }
    }
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

// (MXFP4 has no SIMD form yet.)
void expert_up(const ExpertUp& p, const Constants& c, Groups groups) {
    if (c.weight_format == kMxfp4) return cpu::expert_up(p, c, groups);
    uint32_t columns = ceilDiv(p.hidden_dim, kPanel * kTilePanels);
    for (uint64_t group = groups.begin; group < groups.end; ++group) {
        TileRows tile = findTile(p, c, group / columns);
        if (tile.first < tile.end)
            upTile(p, c, tile, static_cast<uint32_t>(group % columns) * kTilePanels, kTilePanels);
    }
}

void expert_up_gemv(const ExpertUp& p, const Constants& c, Groups groups) {
    if (c.weight_format == kMxfp4) return cpu::expert_up_gemv(p, c, groups);
    uint32_t panels = ceilDiv(p.hidden_dim, kPanel);
    uint64_t end = std::min<uint64_t>(groups.end, uint64_t{gemvRows(p, c)} * panels);
    for (uint64_t group = groups.begin; group < end;) {
        uint32_t row = static_cast<uint32_t>(group / panels), panel = static_cast<uint32_t>(group % panels);
        uint32_t count = static_cast<uint32_t>(std::min<uint64_t>({end - group, kTilePanels, panels - panel}));
        upTile(p, c, {pageOfSlot(p, c, row), row, row + 1}, panel, count);
        group += count;
    }
}

}  // namespace simd
}  // namespace v1
}  // namespace vkmoe
