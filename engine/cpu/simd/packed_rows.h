// Rows of activations side by side, [blocks of 32 columns][rows][32]: what a register tile reads of a block is then a
// few cache lines in a row, however far apart the rows lie in memory.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

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

class PackedRows {
public:
    // Rows row_at(0..count-1) of `cols` values; a single row is used where it is. The view holds until the next call.
    template <class RowAt>
    RowsView pack(uint32_t count, uint32_t cols, const RowAt& row_at) {
        if (count == 1) return {row_at(0), kBlock};
        const size_t step = size_t{count} * kBlock;
        std::vector<float>& memory = scratch();
        memory.resize(std::max(memory.size(), (cols + kBlock - 1) / kBlock * step + kLine));
        float* at = memory.data() + (kLine - reinterpret_cast<uintptr_t>(memory.data()) / 4 % kLine) % kLine;
        for (uint32_t row = 0; row < count; ++row) {
            const float* from = row_at(row);
            uint32_t k = 0;
            for (; k + kBlock <= cols; k += kBlock)
                std::memcpy(at + k / kBlock * step + row * kBlock, from + k, kBlock * sizeof(float));
            std::copy_n(from + k, cols - k, at + k / kBlock * step + row * kBlock);
        }
        return {at, step};
    }

private:
    static constexpr size_t kLine = 16;  // floats of a cache line

    // Kept by the thread: a kernel runs in many small ranges.
    static std::vector<float>& scratch() {
        thread_local std::vector<float> memory;
        return memory;
    }
};

}  // namespace simd
}  // namespace v1
}  // namespace vkmoe
