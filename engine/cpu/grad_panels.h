// Packed weights the other way round, in scalar code: sums over the rows of a matrix, its columns are the outputs.
#pragma once

#include "engine/cpu/panel.h"
#include "engine/cpu/sums.h"

namespace vkmoe {
inline namespace v1 {

// A packed [rows, cols] matrix, kF32 or kBf16.
struct PackedMatrix {
    const uint32_t* panels;
    uint32_t rows, cols, format;

    float at(uint32_t row, uint32_t col) const {
        const uint32_t* panel = panels + uint64_t{row / kPanel} * panelSteps(cols, format) * kPanel;
        return panelWeight(panel, col, row % kPanel, format);
    }
};

// Sum over k of x[k] * weight[k, col], in order R32.
inline float columnDot(const float* x, const PackedMatrix& matrix, uint32_t col) {
    return sumR32(matrix.rows, [&](uint32_t k) { return x[k] * matrix.at(k, col); });
}

// The outputs of `groups`, tiles of kTileRows rows and kTilePanels panels: body(page, row, output).
template <class Params, class Body>
void eachOutput(const Params& p, const Constants& c, Groups groups, uint32_t outputs, const Body& body) {
    constexpr uint32_t kWidth = kPanel * kTilePanels;
    uint32_t columns = ceilDiv(outputs, kWidth);
    for (uint64_t group = groups.begin; group < groups.end; ++group) {
        TileRows tile = findTile(p, c, group / columns);
        uint32_t first = static_cast<uint32_t>(group % columns) * kWidth, last = std::min(first + kWidth, outputs);
        for (uint32_t row = tile.first; row < tile.end; ++row)
            for (uint32_t output = first; output < last; ++output) body(tile.page, row, output);
    }
}

// The gradient of the router's logits is that of a dense expert: `page` holds the address of its page.
inline ExpertDownBackward asDense(const RouterLogitsBackward& p, U32* page) {
    ExpertDownBackward dense{};
    dense.grad_y = p.grad_logits;
    dense.pages = {page};
    dense.grad_hidden = p.grad_x;
    dense.status = p.status;
    dense.model_dim = p.experts;
    dense.hidden_dim = p.model_dim;
    dense.rows = p.tokens;
    return dense;
}

}  // namespace v1
}  // namespace vkmoe
