// A tile of a packed matrix in a page, ready to run: used by expert_up and expert_down.
#pragma once

#include "engine/cpu/panel.h"
#include "engine/cpu/simd/panel_tile.h"

namespace vkmoe {
inline namespace v1 {
namespace simd {

// A packed [outputs, cols] matrix with its bias, at word offsets of a page.
struct PageMatrix {
    const uint32_t* page;
    uint32_t weight, bias, outputs, cols;

    uint32_t panels() const { return ceilDiv(outputs, kPanel); }
    uint64_t panelWords(uint32_t format) const { return uint64_t{panelSteps(cols, format)} * kPanel; }
    // Where a panel starts; null past the last one.
    const uint32_t* panelAt(uint32_t panel, uint32_t format) const {
        return panel < panels() ? page + weight + panel * panelWords(format) : nullptr;
    }
};

// Runs the rows already set in `tile` against panels [panel, panel + tile.panel_count).
inline void multiply(PanelTile& tile, const PageMatrix& matrix, uint32_t panel, const Constants& c,
                     uint32_t bias_bit = kBias) {
    float bias[kTilePanels][kPanel] = {};
    tile.cols = matrix.cols;
    tile.format = c.weight_format;
    tile.fused = c.fused != 0;
    for (uint32_t i = 0; i < tile.panel_count; ++i) {
        uint32_t first = (panel + i) * kPanel;
        tile.panels[i] = matrix.panelAt(panel + i, c.weight_format);
        tile.bias[i] = (c.bias & bias_bit) != 0 ? bias[i] : nullptr;
        if ((c.bias & bias_bit) == 0) continue;
        const auto* values = reinterpret_cast<const float*>(matrix.page + matrix.bias);
        std::copy_n(values + first, std::min(uint32_t{kPanel}, matrix.outputs - first), bias[i]);
    }
    run(tile);
}

}  // namespace simd
}  // namespace v1
}  // namespace vkmoe
