#include "engine/cpu/panel.h"
#include "engine/cpu/simd/epilogue.h"
#include "engine/cpu/simd/panel_tile.h"

namespace vkmoe {
inline namespace v1 {
namespace simd {
namespace {

// The logits of tokens [first, end) for panel `panel`.
void tileLogits(const RouterLogits& p, const Constants& c, uint32_t first, uint32_t end, uint32_t panel) {
    PanelTile tile;
    tile.row_count = end - first;
    tile.cols = p.model_dim;
    tile.format = kF32;
    tile.panel_count = 1;
    tile.panels[0] = p.weight.at + uint64_t{panel} * p.model_dim * kPanel;
    float bias[kPanel] = {};
    uint32_t outputs = std::min(uint32_t{kPanel}, p.experts - panel * kPanel);
    if (c.bias != 0) std::copy_n(p.bias.at + panel * kPanel, outputs, bias);
    tile.bias[0] = c.bias != 0 ? bias : nullptr;
    PackedRows packed;
    tile.x = packed.pack(tile.row_count, p.model_dim,
                         [&](uint32_t i) { return p.x.at + uint64_t{first + i} * p.model_dim; });
    run(tile);
    for (uint32_t row = first; row < end; ++row)
        storeState({p.logits.at, p.status, row * p.experts + panel * kPanel, outputs}, tile.totals[row - first]);
}

}  // namespace

// Groups are sixteen threads a (token, panel), four of them a group; whole tokens are taken together where they can be.
void router_logits(const RouterLogits& p, const Constants& c, Groups groups) {
    uint32_t panels = ceilDiv(p.experts, kPanel);
    uint64_t unit = groups.begin * (kWorkgroup / kPanel),
             last = std::min<uint64_t>(groups.end * (kWorkgroup / kPanel), uint64_t{p.tokens} * panels);
    for (uint32_t panel = 0; panel < panels; ++panel) {
        // the tokens whose (token, panel) lies in [unit, last)
        uint64_t first = unit > panel ? (unit - panel + panels - 1) / panels : 0;
        uint64_t end = last > panel ? (last - panel + panels - 1) / panels : 0;
        for (uint64_t token = first; token < end; token += kRunRows)
            tileLogits(p, c, uint32_t(token), uint32_t(std::min<uint64_t>(token + kRunRows, end)), panel);
    }
}

}  // namespace simd
}  // namespace v1
}  // namespace vkmoe
