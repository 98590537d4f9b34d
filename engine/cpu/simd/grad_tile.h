// The SIMD heart of the gradients' twins: the register tile of panel_tile.h over weights read by columns, and over the
// slots of an expert. Lanes run across outputs; sums are in order R32.
#pragma once

#include "engine/cpu/simd/packed_rows.h"
#include "engine/cpu/simd/panel_tile.h"
#include "engine/cpu/weight_grad.h"

namespace vkmoe {
inline namespace v1 {
namespace simd {

// Rows times the columns [first, first + 64) of a packed matrix [rows, cols], kF32 or kBf16.
struct ColumnTile {
    RowsView x;              // [row_count, rows]
    uint32_t row_count = 0;  // 1..kRunRows
    const uint32_t* panels = nullptr;
    uint32_t rows = 0, cols = 0, first = 0, format = 0;
    bool fused = false;
    alignas(64) float totals[kRunRows][kRunOutputs];  // out
};

void run(ColumnTile& tile);

// Memory that is needed soon: runs of cache lines, `step` words apart. It is fetched while products are summed, a few
// lines at a time; all at once would wait for each other.
struct Ahead {
    const uint32_t* at = nullptr;
    size_t step = 0;
    uint32_t runs = 0, lines = 0;

    // What to fetch in steps [begin, end) of `steps`.
    Ahead part(uint32_t begin, uint32_t end, uint32_t steps) const {
        const uint32_t line = static_cast<uint32_t>(uint64_t{lines} * begin / steps);
        return {at + size_t{line} * kPanel, step, runs, static_cast<uint32_t>(uint64_t{lines} * end / steps) - line};
    }
};

constexpr uint32_t kGradSide = kRunOutputs;  // columns of x and rows of a gradient's matrix in one tile

// The two accumulators of R32 for 64 columns and 64 rows of a gradient, [column][row].
struct SlotTile {
    const float* x = nullptr;         // [slots][64] operands; null: one column of ones, a bias's
    const float* grad_out = nullptr;  // [slots][64] operands
    uint32_t rows = 0, columns = 0;   // 1..64
    uint32_t slots = 0, before = 0;   // before: slots of earlier chunks
    bool last = true;                 // the sum of the unfinished block is added to totals, too
    bool fresh = false;               // gradients are assigned
    bool fused = false;
    float* grads = nullptr;                          // where the gradients begin, in panels [cols][16]
    uint32_t cols = 0;                               // of a panel
    bool stored = false, out_of_range = false;       // out: run() has done what addGradients does; one must be counted
    alignas(64) float start[kGradSide][kGradSide];   // in: the sum of an unfinished block, if there is one
    alignas(64) float totals[kGradSide][kGradSide];  // in and out
    alignas(64) float sums[kGradSide][kGradSide];    // out: of the block that is unfinished, unless `last`
};

// totals must be set if there were finished blocks before, start if there was an unfinished one. The sums of the last
// block of a whole tile go to the gradients from where they are, in registers.
void run(SlotTile& tile);

// grad = state_rule(checked(grad + total)), or of the total alone if the tile is fresh: `word` is that of the tile's
// first element, which status counts by.
void addGradients(const SlotTile& tile, uint32_t word, U32 status);

}  // namespace simd
}  // namespace v1
}  // namespace vkmoe
