// Rows of activations side by side, [blocks of columns][rows][32 or 64]: what a register tile reads of a block is then
// a few cache lines in a row, however far apart the rows lie in memory.
#pragma once

#include <algorithm>
#include <cstdint>

#include "engine/cpu/simd/thread_memory.h"
#include "shaders/constants.h"

namespace vkmoe {
inline namespace v1 {
namespace simd {

// Rows as the tiles read them: column k of row r is at[k/32 * step + r*32 + k%32].
struct RowsView {
    const float* at = nullptr;
    size_t step = 0;

    RowsView from(uint32_t row) const { return {at + size_t{row} * kBlock, step}; }
};

// Packs rows of `cols` values in blocks of `width` columns, 32 or 64: value k of row r goes to
// to[k/width * step + r*width + k%width]. `to` and `step` are multiples of a cache line.
void packRows(const float* const* rows, uint32_t count, uint32_t cols, uint32_t width, float* to, size_t step);

// Packs as_operand of the rows' `cols` values, at most `width`: those of row r go to to[r*width ..].
void packOperands(const float* const* rows, uint32_t count, uint32_t cols, uint32_t width, uint32_t bits, float* to);

constexpr uint32_t kRowsPacked = 64;  // rows whose addresses are listed at a time

// body(addresses of rows, how many, the first one's number), in order, for rows row_at(0..count-1).
template <class RowAt, class Body>
void eachRowList(uint32_t count, const RowAt& row_at, const Body& body) {
    const float* rows[kRowsPacked];
    for (uint32_t row = 0; row < count; row += kRowsPacked) {
        const uint32_t listed = std::min(kRowsPacked, count - row);
        for (uint32_t i = 0; i < listed; ++i) rows[i] = row_at(row + i);
        body(rows, listed, row);
    }
}

// Rows row_at(0..count-1) of `cols` values; a single row is used where it is. The view holds until the thread's next
// call.
template <class RowAt>
RowsView packedRows(uint32_t count, uint32_t cols, const RowAt& row_at) {
    if (count == 1) return {row_at(0), kBlock};
    const size_t step = size_t{count} * kBlock;
    float* at = threadMemory<RowsView>((cols + kBlock - 1) / kBlock * step);
    eachRowList(count, row_at, [&](const float* const* rows, uint32_t listed, uint32_t first) {
        packRows(rows, listed, cols, kBlock, at + size_t{first} * kBlock, step);
    });
    return {at, step};
}

}  // namespace simd
}  // namespace v1
}  // namespace vkmoe
