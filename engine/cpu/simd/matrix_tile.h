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

// Sixteen values of a bias whose last panel has fewer.
using PaddedBias = float[kPanel];

// Sets panels [first, first + count) of `tile` to those of `matrix` from `panel` on, and what all panels share;
// `padded` is for the last panel's bias.
inline void setPanels(PanelTile& tile, uint32_t first, uint32_t count, const PageMatrix& matrix, uint32_t panel,
                      const Constants& c, uint32_t bias_bit, PaddedBias& padded) {
    for (uint32_t i = 0; i < count; ++i) {
        uint32_t output = (panel + i) * kPanel;
        tile.panels[first + i] = matrix.panelAt(panel + i, c.weight_format);
        if ((c.bias & bias_bit) == 0) continue;
        tile.bias[first + i] = reinterpret_cast<const float*>(matrix.page + matrix.bias) + output;
        if (matrix.outputs - output >= kPanel) continue;
        std::fill(std::copy_n(tile.bias[first + i], matrix.outputs - output, padded), std::end(padded), 0.0f);
        tile.bias[first + i] = padded;
    }
    tile.cols = matrix.cols;
    tile.format = c.weight_format;
    tile.fused = c.fused != 0;
}

// Runs the rows already set in `tile` against panels [panel, panel + tile.panel_count).
inline void multiply(PanelTile& tile, const PageMatrix& matrix, uint32_t panel, const Constants& c,
                     uint32_t bias_bit = kBias) {
    PaddedBias padded;
    setPanels(tile, 0, tile.panel_count, matrix, panel, c, bias_bit, padded);
    run(tile);
}

}  // namespace simd
}  // namespace v1
}  // namespace vkmoe
