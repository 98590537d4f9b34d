#include "engine/cpu/simd/epilogue.h"
#include "engine/cpu/simd/matrix_tile.h"
#include "engine/cpu/simd/tile_walk.h"

namespace vkmoe {
inline namespace v1 {
namespace simd {
namespace {

// What becomes of the totals of `rows` by `panels` panels from `panel`.
void store(const ExpertUp& p, const Constants& c, Totals gate, Totals up, const TileRows& rows, uint32_t panel,
           uint32_t panels) {
    const uint32_t first = panel * kPanel, count = std::min(panels * kPanel, p.hidden_dim - first);
    Epilogue e{p.hidden.at, p.status, rows.first * p.hidden_dim + first, p.hidden_dim, rows.end - rows.first, count};
    storeHidden(e, gate, up, c, p.swiglu_limit, p.swiglu_alpha);
    if (c.keep_totals == 0) return;
    e.out = p.up_total.at;
    storeKept(e, up);
    e.out = p.gate_total.at;
    if (c.activation != kRelu) storeKept(e, gate);
}

// `rows` by up to `panels` panels from `panel`.
void upTile(const ExpertUp& p, const Constants& c, const TileRows& rows, RowsView x, uint32_t panel, uint32_t panels) {
    const PageMatrix up_matrix{rows.page, p.up_weight, p.up_bias, p.hidden_dim, p.model_dim};
    const PageMatrix gate_matrix{rows.page, p.gate_weight, p.gate_bias, p.hidden_dim, p.model_dim};
    const uint32_t* next = up_matrix.panelAt(panel + panels, c.weight_format);
    panels = std::min(panels, up_matrix.panels() - panel);
    PanelTile up;
    up.x = x;
    up.row_count = rows.end - rows.first;
    up.panel_count = panels;
    if (c.activation != kRelu && up.row_count == 1 && panels == kTilePanels) {  // both matrices at once
        PaddedBias padded, gate_padded;
        setPanels(up, 0, kTilePanels, up_matrix, panel, c, kBias, padded);
        setPanels(up, kTilePanels, kTilePanels, gate_matrix, panel, c, kGateBias, gate_padded);
        up.panel_count = kRowPanels;
        run(up);
        return store(p, c, up.totals + 1, up.totals, rows, panel, panels);
    }
    up.next = c.activation == kRelu ? next : gate_matrix.panelAt(panel, c.weight_format);
    multiply(up, up_matrix, panel, c, kBias);
    if (c.activation == kRelu) return store(p, c, up.totals, up.totals, rows, panel, panels);
    PanelTile gate;
    gate.x = x;
    gate.row_count = up.row_count;
    gate.panel_count = panels;
    gate.next = next;
    multiply(gate, gate_matrix, panel, c, kGateBias);
    store(p, c, gate.totals, up.totals, rows, panel, panels);
}

// x of a slot, or of a token where rows are tokens.
auto rowsOf(const ExpertUp& p, const Constants& c) {
    return [&](uint32_t row) { return p.x.at + uint64_t{c.dense != 0 ? row : p.token_of.at[row]} * p.model_dim; };
}

}  // namespace

void expert_up(const ExpertUp& p, const Constants& c, Groups groups) {
    eachTile(p, c, groups, ceilDiv(p.hidden_dim, kPanel * kTilePanels), p.model_dim, rowsOf(p, c),
             [&](const TileRows& rows, RowsView x, uint32_t panel) { upTile(p, c, rows, x, panel, kTilePanels); });
}

void expert_up_gemv(const ExpertUp& p, const Constants& c, Groups groups) {
    eachRow(p, c, groups, ceilDiv(p.hidden_dim, kPanel), kTilePanels, p.model_dim, rowsOf(p, c),
            [&](const TileRows& rows, RowsView x, uint32_t panel, uint32_t panels) {
                upTile(p, c, rows, x, panel, panels);
            });
}

}  // namespace simd
}  // namespace v1
}  // namespace vkmoe
