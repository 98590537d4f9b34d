#include <cstring>
#include <memory>
#include <vector>

#include "engine/cpu/simd/grad_tile.h"

namespace vkmoe {
inline namespace v1 {
namespace simd {
namespace {

constexpr uint64_t kMostPacked = uint64_t{2} << 20;  // floats of grad_out that are packed at once

// Memory of the thread, from a multiple of a cache line on.
template <int>
float* scratch(size_t floats) {
    constexpr size_t kLine = 16;
    thread_local std::vector<float> memory;
    memory.resize(std::max(memory.size(), floats + kLine));
    return memory.data() + (kLine - reinterpret_cast<uintptr_t>(memory.data()) / 4 % kLine) % kLine;
}

// Columns [col, col + columns) of x of all slots, as operands, [slots][64]: used by every row tile.
const float* packInput(const ExpertWeightGrad& p, const Constants& c, const GradSlots& slots, uint32_t col,
                       uint32_t columns) {
    float* memory = scratch<0>(size_t{slots.end - slots.first} * kGradSide);
    for (uint32_t slot = slots.first; slot < slots.end; ++slot) {
        const float* from = gradInput(p, c, slot) + col;
        for (uint32_t i = kGradSide; i < 2 * kGradSide; i += kPanel) __builtin_prefetch(from + i, 0, 2);
        roundOperands(from, memory + size_t{slot - slots.first} * kGradSide, columns, c.operand_bits);
    }
    return memory;
}

// Rows [row, end) of grad_out of all slots, in tiles of 64 rows, [slots][64] each.
const float* packGrads(const ExpertWeightGrad& p, const GradSlots& slots, uint32_t row, uint32_t end, float* memory) {
    size_t count = slots.end - slots.first;
    for (uint32_t slot = slots.first; slot < slots.end; ++slot) {
        const float* from = p.grad_out.at + uint64_t{slot} * p.rows;
        for (uint32_t r = row; r < end; r += kGradSide) {
            float* to = memory + ((r - row) / kGradSide * count + (slot - slots.first)) * kGradSide;
            if (end - r >= kGradSide)
                std::memcpy(to, from + r, kGradSide * sizeof(float));  // of a known length: a few moves
            else
                std::copy_n(from + r, end - r, to);
        }
    }
    return memory;
}

// body(values of a column's sixteen rows, how many, their first word in a page) for each panel and column of a tile.
template <class Body>
void eachPanel(const ExpertWeightGrad& p, uint32_t row, uint32_t col, const SlotTile& tile, const Body& body) {
    for (uint32_t r = 0; r < tile.rows; r += kPanel)
        for (uint32_t i = 0; i < tile.columns; ++i)
            body(i, r, std::min(uint32_t{kPanel}, tile.rows - r), gradWord(p, row + r, col + i));
}

void load(const ExpertWeightGrad& p, const uint32_t* page, uint32_t row, uint32_t col, SlotTile& tile,
          float (&values)[kGradSide][kGradSide]) {
    eachPanel(p, row, col, tile, [&](uint32_t i, uint32_t r, uint32_t count, uint32_t word) {
        std::copy_n(reinterpret_cast<const float*>(page + word), count, values[i] + r);
    });
}

void keep(const ExpertWeightGrad& p, uint32_t* page, uint32_t row, uint32_t col, const SlotTile& tile,
          const float (&values)[kGradSide][kGradSide]) {
    eachPanel(p, row, col, tile, [&](uint32_t i, uint32_t r, uint32_t count, uint32_t word) {
        for (uint32_t j = 0; j < count; ++j) page[word + j] = floatBitsToUint(normal_or_zero(values[i][r + j]));
    });
}

// Rows [row, row + rows) of the columns whose x is packed; grads are theirs, [slots][64].
void addRows(const ExpertWeightGrad& p, const Constants& c, const GradSlots& slots, const float* x, const float* grads,
             uint32_t row, uint32_t rows, uint32_t col, SlotTile& tile) {
    tile.x = x;
    tile.grad_out = grads;
    tile.rows = rows;
    tile.columns = std::min(kGradSide, p.cols - col);
    tile.slots = slots.end - slots.first;
    tile.before = slots.before;
    tile.last = slots.last;
    tile.fresh = slots.fresh;
    tile.fused = c.fused != 0;
    tile.ahead = {};
    if (slots.last)
        tile.ahead = {slots.grads + gradWord(p, row, col), size_t{p.cols} * kPanel, ceilDiv(rows, kPanel),
                      tile.columns};
    if (GradSlots::hasTotal(slots.before)) load(p, slots.totals, row, col, tile, tile.totals);
    if (GradSlots::hasPartial(slots.before)) load(p, slots.partials, row, col, tile, tile.start);
    run(tile);
    if (slots.last) return addGradients(tile, slots.grads, gradWord(p, row, col), p.cols, p.status);
    if (GradSlots::hasTotal(slots.after())) keep(p, slots.totals, row, col, tile, tile.totals);
    if (GradSlots::hasPartial(slots.after())) keep(p, slots.partials, row, col, tile, tile.sums);
}

// Neighbouring words of ChunkSum: plain loops, which compilers turn into vectors.
void addBias(const ExpertWeightGrad& p, const GradSlots& slots, uint32_t row, uint32_t rows) {
    float sums[kGradSide], totals[kGradSide];
    const uint32_t word = p.bias + row;
    std::fill_n(sums, rows, -0.0f);
    std::fill_n(totals, rows, -0.0f);
    if (GradSlots::hasTotal(slots.before)) std::memcpy(totals, slots.totals + word, rows * 4);
    if (GradSlots::hasPartial(slots.before)) std::memcpy(sums, slots.partials + word, rows * 4);
    for (uint32_t slot = slots.first, rank = slots.before; slot < slots.end; ++slot) {
        const float* terms = p.grad_out.at + uint64_t{slot} * p.rows + row;
        for (uint32_t r = 0; r < rows; ++r) sums[r] = sums[r] + terms[r];
        if (++rank % kBlock != 0) continue;
        for (uint32_t r = 0; r < rows; ++r) totals[r] = totals[r] + sums[r];
        std::fill_n(sums, rows, -0.0f);
    }
    for (uint32_t r = 0; r < rows; ++r) ChunkSum(totals[r], sums[r], slots.after()).finish(p, slots, word + r);
}

// Gradients that no slot adds to.
void clearRows(const ExpertWeightGrad& p, const Constants& c, const GradSlots& slots, uint32_t row, uint32_t rows,
               uint32_t col, SlotTile& tile) {
    tile.rows = rows;
    tile.columns = std::min(kGradSide, p.cols - col);
    eachPanel(p, row, col, tile,
              [&](uint32_t, uint32_t, uint32_t count, uint32_t word) { std::fill_n(slots.grads + word, count, 0u); });
    if ((c.bias & kBias) != 0 && col == 0) std::fill_n(slots.grads + p.bias + row, rows, 0u);
}

// A part of the groups that belongs to one expert: tiles [first, end), row tiles fastest.
struct Part {
    GradSlots slots;
    uint64_t first, end;
};

// Row tiles of one column tile are taken together, two at a time; where a part has several column tiles, their rows of
// grad_out are packed once.
void addPart(const ExpertWeightGrad& p, const Constants& c, const Part& part, SlotTile& tile) {
    const uint32_t row_tiles = ceilDiv(p.rows, kTileRows);
    const size_t slots = part.slots.end - part.slots.first;
    bool several = part.end - part.first > row_tiles && slots * p.rows <= kMostPacked;
    const float* all =
        several ? packGrads(p, part.slots, 0, p.rows, scratch<1>(ceilDiv(p.rows, kGradSide) * slots * kGradSide))
                : nullptr;
    for (uint64_t group = part.first; group < part.end;) {
        uint64_t next = std::min(part.end, (group / row_tiles + 1) * row_tiles);
        uint32_t row = uint32_t(group % row_tiles) * kTileRows, col = uint32_t(group / row_tiles) * kGradSide;
        uint32_t end = std::min(p.rows, row + uint32_t(next - group) * kTileRows);
        group = next;
        if (slots == 0 && part.slots.before == 0) {  // fresh, else there is nothing to do
            clearRows(p, c, part.slots, row, end - row, col, tile);
            continue;
        }
        const float* x = packInput(p, c, part.slots, col, std::min(kGradSide, p.cols - col));
        for (; row < end; row += kGradSide) {
            uint32_t rows = std::min(kGradSide, end - row);
            bool packed = several && row % kGradSide == 0 && (rows == kGradSide || row + rows == p.rows);
            const float* grads =
                packed ? all + row * slots : packGrads(p, part.slots, row, row + rows, scratch<2>(slots * kGradSide));
            addRows(p, c, part.slots, x, grads, row, rows, col, tile);
            if ((c.bias & kBias) != 0 && col == 0) addBias(p, part.slots, row, rows);
        }
    }
}

}  // namespace

void expert_weight_grad(const ExpertWeightGrad& p, const Constants& c, Groups groups) {
    const uint64_t of_expert = uint64_t{ceilDiv(p.rows, kTileRows)} * ceilDiv(p.cols, kGradSide);
    const uint64_t count = std::min(groups.end, gradExperts(p, c) * of_expert);
    auto tile = std::make_unique_for_overwrite<SlotTile>();
    for (uint64_t group = groups.begin; group < count;) {
        uint64_t expert = group / of_expert, next = std::min(count, (expert + 1) * of_expert);
        Part part{findSlots(p, c, uint32_t(expert)), group - expert * of_expert, next - expert * of_expert};
        group = next;
        if (!part.slots.nothing()) addPart(p, c, part, *tile);
    }
}

}  // namespace simd
}  // namespace v1
}  // namespace vkmoe
