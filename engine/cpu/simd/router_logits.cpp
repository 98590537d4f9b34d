#include "engine/cpu/panel.h"
#include "engine/cpu/simd/epilogue.h"
#include "engine/cpu/simd/panel_tile.h"

namespace vkmoe {
inline namespace v1 {
namespace simd {
namespace {

// The logits of tokens [first, end), whose rows are `x`, for panels [panel, panel + panels), at most kTilePanels.
void tileLogits(const RouterLogits& p, const Constants& c, RowsView x, uint32_t first, uint32_t end, uint32_t panel,
                uint32_t panels) {
    PanelTile tile;
    tile.x = x;
    tile.row_count = end - first;
    tile.panel_count = panels;
    tile.cols = p.model_dim;
    tile.format = kF32;
    float bias[kTilePanels][kPanel] = {};
    uint32_t outputs = std::min(panels * kPanel, p.experts - panel * kPanel);
    if (c.bias != 0) std::copy_n(p.bias.at + panel * kPanel, outputs, bias[0]);
    for (uint32_t i = 0; i < panels; ++i) {
        tile.panels[i] = p.weight.at + uint64_t{panel + i} * p.model_dim * kPanel;
        tile.bias[i] = c.bias != 0 ? bias[i] : nullptr;
    }
    run(tile);
    storeState({p.logits.at, p.status, first * p.experts + panel * kPanel, p.experts, end - first, outputs},
               tile.totals);
}

// Panels [panel, last) of tokens [first, end).
void tokenLogits(const RouterLogits& p, const Constants& c, uint64_t first, uint64_t end, uint32_t panel,
                 uint32_t last) {
    for (uint64_t token = first; token < end && panel < last; token += kRunRows) {
        uint32_t from = uint32_t(token), to = uint32_t(std::min<uint64_t>(token + kRunRows, end));
        RowsView x =
            packedRows(to - from, p.model_dim, [&](uint32_t i) { return p.x.at + uint64_t{from + i} * p.model_dim; });
        for (uint32_t i = panel; i < last; i += kTilePanels)
            tileLogits(p, c, x, from, to, i, std::min(uint32_t{kTilePanels}, last - i));
    }
}

}  // namespace

// Groups are sixteen threads a (token, panel), four of them a group: whole tokens together, what is left of the first
// and the last one apart.
void router_logits(const RouterLogits& p, const Constants& c, Groups groups) {
    const uint32_t panels = ceilDiv(p.experts, kPanel);
    uint64_t first = groups.begin * (kWorkgroup / kPanel),
             end = std::min<uint64_t>(groups.end * (kWorkgroup / kPanel), uint64_t{p.tokens} * panels);
    if (first >= end) return;
    uint64_t token = (first + panels - 1) / panels, last = end / panels;
    if (token > last) return tokenLogits(p, c, last, token, uint32_t(first % panels), uint32_t(end % panels));
    if (first % panels != 0) tokenLogits(p, c, token - 1, token, uint32_t(first % panels), panels);
    tokenLogits(p, c, token, last, 0, panels);
    tokenLogits(p, c, last, last + 1, 0, uint32_t(end % panels));
}

}  // namespace simd
}  // namespace v1
}  // namespace vkmoe
