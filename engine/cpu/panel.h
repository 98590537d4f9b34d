// Packed weights in scalar code: the R32 sum of one output. Rounded precision needs nothing else: its products are
// exact, so multiply-then-add has the bits of the fused form.
#pragma once

#include "engine/cpu/twin.h"
#include "shaders/activation.h"

namespace vkmoe {
inline namespace v1 {

// Rows of 16 words in a panel: see pack_panels.comp for the layouts.
inline uint32_t panelSteps(uint32_t cols, uint32_t format) {
    if (format == kF32) return cols;
    return format == kMxfp4 ? cols / 8 + ceilDiv(cols, kScaleGroup * kBlock) : ceilDiv(cols, 2);
}

// Index of the row of words that holds the codes of columns k..k+7 of an MXFP4 panel, and of the one with k's scale.
inline uint32_t mxfp4CodeStep(uint32_t k) { return k / 8 + k / (kScaleGroup * kBlock) + 1; }
inline uint32_t mxfp4ScaleStep(uint32_t k) { return k / (kScaleGroup * kBlock) * (kScaleGroup * kBlock / 8 + 1); }

// A weight as it enters the sum of its block: of MXFP4 the doubled code.
inline float panelWeight(const uint32_t* panel, uint32_t k, uint32_t lane, uint32_t format) {
    if (format == kF32) return uintBitsToFloat(panel[uint64_t{k} * kPanel + lane]);
    if (format == kMxfp4) return mxfp4_code(panel[mxfp4CodeStep(k) * kPanel + lane] >> (k % 8 * 4) & 15u);
    uint32_t word = panel[uint64_t{k >> 1} * kPanel + lane];
    return decodeHalf((k & 1u) == 0 ? word & 0xffffu : word >> 16, format);
}

// What the total of the block that starts at column k is multiplied by (MXFP4).
inline float panelScale(const uint32_t* panel, uint32_t k, uint32_t lane) {
    return mxfp4_half_scale(panel[mxfp4ScaleStep(k) * kPanel + lane] >> (k / kBlock % kScaleGroup * 8) & 255u);
}

// bias + sum over k of x[k] * weight[k], in order R32; without a bias the first block's total starts the sum.
inline float panelDot(const float* x, const uint32_t* panel, uint32_t lane, uint32_t cols, uint32_t format,
                      const float* bias) {
    float total = 0;
    for (uint32_t k0 = 0; k0 < cols; k0 += kBlock) {
        float s = x[k0] * panelWeight(panel, k0, lane, format);
        for (uint32_t k = k0 + 1; k < std::min(k0 + kBlock, cols); ++k)
            s = s + x[k] * panelWeight(panel, k, lane, format);
        if (format == kMxfp4) s = s * panelScale(panel, k0, lane);
        if (k0 != 0)
            total = total + s;
        else
            total = bias ? *bias + s : s;
    }
    return total;
}

// One output of a matrix in a page: weights and bias at word offsets.
inline float pageDot(const float* x, const uint32_t* page, uint32_t weight, uint32_t bias, uint32_t output,
                     uint32_t cols, const Constants& c, uint32_t bias_bit = kBias) {
    const uint32_t* panel = page + weight + uint64_t{output / kPanel} * panelSteps(cols, c.weight_format) * kPanel;
    const float* b = (c.bias & bias_bit) != 0 ? reinterpret_cast<const float*>(page + bias + output) : nullptr;
    return panelDot(x, panel, output % kPanel, cols, c.weight_format, b);
}

// Counts a hidden value that may not be used: a sum that went out of range is caught before relu or silu can hide it.
inline void checkHidden(float gate, float up, float hidden, U32 status, uint32_t index) {
    if (out_of_range(gate) || out_of_range(up) || out_of_range(hidden)) flag(status, index);
}

// The work of one tile: rows [first, end) of the page's expert; none if the page is not here (see Pages).
struct TileRows {
    const uint32_t* page = nullptr;
    uint32_t first = 0, end = 0;
};

// Tiles of the compact list, or of the dense one.
template <class Params>
uint64_t tileCount(const Params& p, const Constants& c) {
    return c.dense != 0 ? ceilDiv(p.rows, kTileRows) : p.tile_count.at[0];
}

// Tile `index` of them; an empty one past the end.
template <class Params>
TileRows findTile(const Params& p, const Constants& c, uint64_t index) {
    TileRows tile;
    if (index >= tileCount(p, c)) return tile;
    if (c.dense != 0) {
        tile.first = static_cast<uint32_t>(index * kTileRows);
        tile.end = std::min(p.rows, tile.first + kTileRows);
        tile.page = p.pages.at[p.dense_page].at;
        return tile;
    }
    uint32_t expert = p.tiles.at[2 * index];
    const uint32_t* page = p.pages.at[expert].at;
    if (!page) return tile;
    tile.page = page;
    tile.first = p.tiles.at[2 * index + 1];
    tile.end = std::min(p.offsets.at[expert + 1], tile.first + kTileRows);
    return tile;
}

// Rows of the GEMV form: of the slots, those that were filled.
template <class Params>
uint32_t gemvRows(const Params& p, const Constants& c) {
    return c.dense != 0 ? p.rows : p.offsets.at[p.experts];
}

// The page of a slot in the GEMV form; null: it is not here.
template <class Params>
const uint32_t* pageOfSlot(const Params& p, const Constants& c, uint32_t slot) {
    if (c.dense != 0) return p.pages.at[p.dense_page].at;
    const uint32_t* after = std::upper_bound(p.offsets.at + 1, p.offsets.at + p.experts, slot);
    return p.pages.at[after - p.offsets.at - 1].at;
}

}  // namespace v1
}  // namespace vkmoe
