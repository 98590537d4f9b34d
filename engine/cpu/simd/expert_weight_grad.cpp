#include <memory>

#include "engine/cpu/simd/grad_tile.h"

namespace vkmoe {
inline namespace v1 {
namespace simd {
namespace {

constexpr uint64_t kMostPacked = uint64_t{2} << 20;  // floats of grad_out that are packed at once

// Whose memory: packed columns of x, packed rows of grad_out of one tile and of all.
struct InputColumns;
struct TileGrads;
struct AllGrads;

// Columns [col, col + columns) of x of all slots, as operands, [slots][64]: used by every row tile.
const float* packInput(const ExpertWeightGrad& p, const Constants& c, const GradSlots& slots, uint32_t col,
                       uint32_t columns) {
    const uint32_t count = slots.end - slots.first, rest = p.cols - col - columns;
    float* memory = threadMemory<InputColumns>(size_t{count} * kGradSide);
    auto row_at = [&](uint32_t slot) {
        const float* from = gradInput(p, c, slots.first + slot) + col;
        for (uint32_t i = 0; i < std::min(rest, kGradSide); i += kPanel) __builtin_prefetch(from + columns + i, 0, 2);
        return from;
    };
    eachRowList(count, row_at, [&](const float* const* rows, uint32_t listed, uint32_t first) {
        packOperands(rows, listed, columns, kGradSide, c.operand_bits, memory + size_t{first} * kGradSide);
    });
    return memory;
}

// Rows [row, end) of grad_out of all slots, in tiles of 64 rows, [slots][64] each.
const float* packGrads(const ExpertWeightGrad& p, const GradSlots& slots, uint32_t row, uint32_t end, float* memory) {
    const uint32_t count = slots.end - slots.first;
    auto row_at = [&](uint32_t slot) { return p.grad_out.at + uint64_t{slots.first + slot} * p.rows + row; };
    eachRowList(count, row_at, [&](const float* const* rows, uint32_t listed, uint32_t first) {
        packRows(rows, listed, end - row, kGradSide, memory + size_t{first} * kGradSide, size_t{count} * kGradSide);
    });
    return memory;
}

// Where a tile's gradients lie in a page: the first word, of panels [cols][16].
struct TilePlace {
    uint32_t word, cols;
};

TilePlace weightPlace(const ExpertWeightGrad& p, uint32_t row, uint32_t col) { return {gradWord(p, row, col), p.cols}; }
// As a matrix of one column.
TilePlace biasPlace(const ExpertWeightGrad& p, uint32_t row) { return {p.bias + row, 1}; }

// body(column, first row, how many of its sixteen rows, their first word in a page) for each panel and column of a
// tile.
template <class Body>
void eachPanel(const TilePlace& place, const SlotTile& tile, const Body& body) {
    for (uint32_t r = 0; r < tile.rows; r += kPanel)
        for (uint32_t i = 0; i < tile.columns; ++i)
            body(i, r, std::min(uint32_t{kPanel}, tile.rows - r), place.word + r * place.cols + i * kPanel);
}

void load(const TilePlace& place, const uint32_t* page, SlotTile& tile, float (&values)[kGradSide][kGradSide]) {
    eachPanel(place, tile, [&](uint32_t i, uint32_t r, uint32_t count, uint32_t word) {
        std::copy_n(reinterpret_cast<const float*>(page + word), count, values[i] + r);
    });
}

void keep(const TilePlace& place, uint32_t* page, const SlotTile& tile, const float (&values)[kGradSide][kGradSide]) {
    eachPanel(place, tile, [&](uint32_t i, uint32_t r, uint32_t count, uint32_t word) {
        for (uint32_t j = 0; j < count; ++j) page[word + j] = floatBitsToUint(normal_or_zero(values[i][r + j]));
    });
}

// The sums of a tile whose x, grad_out, rows and columns are set, into the gradients or on to the next chunk.
void addSums(const ExpertWeightGrad& p, const Constants& c, const GradSlots& slots, const TilePlace& place,
             SlotTile& tile) {
    tile.slots = slots.end - slots.first;
    tile.before = slots.before;
    tile.last = slots.last;
    tile.fresh = slots.fresh;
    tile.fused = c.fused != 0;
    tile.grads = reinterpret_cast<float*>(slots.grads + place.word);
    tile.cols = place.cols;
    if (GradSlots::hasTotal(slots.before)) load(place, slots.totals, tile, tile.totals);
    if (GradSlots::hasPartial(slots.before)) load(place, slots.partials, tile, tile.start);
    run(tile);
    if (slots.last) return addGradients(tile, place.word, p.status);
    if (GradSlots::hasTotal(slots.after())) keep(place, slots.totals, tile, tile.totals);
    if (GradSlots::hasPartial(slots.after())) keep(place, slots.partials, tile, tile.sums);
}

// Rows [row, row + rows) of the columns whose x is packed, and of the bias; grads are theirs, [slots][64].
void addRows(const ExpertWeightGrad& p, const Constants& c, const GradSlots& slots, const float* x, const float* grads,
             uint32_t row, uint32_t rows, uint32_t col, SlotTile& tile) {
    tile.x = x;
    tile.grad_out = grads;
    tile.rows = rows;
    tile.columns = std::min(kGradSide, p.cols - col);
    addSums(p, c, slots, weightPlace(p, row, col), tile);
    if ((c.bias & kBias) == 0 || col != 0) return;
    tile.x = nullptr;
    tile.columns = 1;
    addSums(p, c, slots, biasPlace(p, row), tile);
}

// Gradients that no slot adds to.
void clearRows(const ExpertWeightGrad& p, const Constants& c, const GradSlots& slots, uint32_t row, uint32_t rows,
               uint32_t col, SlotTile& tile) {
    tile.rows = rows;
    tile.columns = std::min(kGradSide, p.cols - col);
    eachPanel(weightPlace(p, row, col), tile,
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
    const float* all = several ? packGrads(p, part.slots, 0, p.rows,
                                           threadMemory<AllGrads>(ceilDiv(p.rows, kGradSide) * slots * kGradSide))
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
                packed ? all + row * slots
                       : packGrads(p, part.slots, row, row + rows, threadMemory<TileGrads>(slots * kGradSide));
            addRows(p, c, part.slots, x, grads, row, rows, col, tile);
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
