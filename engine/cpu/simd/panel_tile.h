// The SIMD heart of the hot twins: rows of activations times up to four weight panels, one row times up to eight, in
// order R32.
//
// Lanes run across outputs, so the vector width never enters the order of a sum. With many rows the weights of a
// block of 32 columns are decoded once and used by every row; a few rows decode as they read.
#pragma once

#include <cstdint>

#include "engine/cpu/simd/packed_rows.h"

namespace vkmoe {
inline namespace v1 {
namespace simd {

constexpr uint32_t kRunTiles = 4;                     // tiles of one expert that are multiplied together
constexpr uint32_t kRunRows = kRunTiles * kTileRows;  // so that a panel is read from memory once for their rows
constexpr uint32_t kRunOutputs = kTilePanels * kPanel;
constexpr uint32_t kRowPanels = 2 * kTilePanels;  // most panels of a single row: they share what is made of its values

struct PanelTile {
    RowsView x;                               // [row_count, cols]
    uint32_t row_count = 0;                   // 1..kRunRows
    const uint32_t* panels[kRowPanels] = {};  // packed panels
    const uint32_t* next = nullptr;           // what to fetch ahead: where the next tile's panels start, or null
    uint32_t panel_count = 0;                 // 1..kTilePanels, of a single row 1..kRowPanels
    const float* bias[kRowPanels] = {};       // 16 values each (padded), or null: none
    uint32_t cols = 0;
    uint32_t format = 0;                              // kF32, kF16, kBf16, kMxfp4
    bool fused = false;                               // one FMA instead of multiply and add (rounded precision only)
    alignas(64) float totals[kRunRows][kRunOutputs];  // out; a single row's of panels past kTilePanels in totals[1]

    float* totalsOf(uint32_t row, uint32_t panel) {
        return totals[row + panel / kTilePanels] + panel % kTilePanels * kPanel;
    }
};

void run(PanelTile& tile);

// The instruction set in use, e.g. "AVX3".
const char* targetName();

}  // namespace simd
}  // namespace v1
}  // namespace vkmoe
