// The SIMD heart of the hot twins: up to 32 rows times up to four weight panels, in order R32.
//
// Lanes run across outputs, so the vector width never enters the order of a sum. Weights of a block of 32 are decoded
// once and used by every row; block totals stay in memory (they are added to once per block).
#pragma once

#include <cstdint>

#include "shaders/constants.h"

namespace vkmoe {
inline namespace v1 {
namespace simd {

struct PanelTile {
    const float* rows[kTileRows] = {};         // x of each row, [cols]
    uint32_t row_count = 0;                    // 1..32
    const uint32_t* panels[kTilePanels] = {};  // packed panels
    uint32_t panel_count = 0;                  // 1..4
    const float* bias[kTilePanels] = {};       // 16 values each (padded), or null: none
    uint32_t cols = 0;
    uint32_t format = 0;                            // kF32, kF16, kBf16
    bool fused = false;                             // one FMA instead of multiply and add (rounded precision only)
    float totals[kTileRows][kTilePanels * kPanel];  // out
};

void run(PanelTile& tile);

// The instruction set in use, e.g. "AVX3".
const char* targetName();

}  // namespace simd
}  // namespace v1
}  // namespace vkmoe
