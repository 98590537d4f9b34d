#include <memory>
#include <vector>

#include "engine/cpu/simd/grad_tile.h"

namespace vkmoe {
inline namespace v1 {
namespace simd {
namespace {

// Columns [col, col + columns) of x of all slots, as operands, [slots][64]: kept by the thread, used by every row tile.
const float* packInput(const ExpertWeightGrad& p, const Constants& c, const GradSlots& slots, uint32_t col,
                       uint32_t columns) {
    thread_local std::vector<float> memory;
    memory.resize(std::max(memory.size(), size_t{slots.end - slots.first} * kGradSide));
    for (uint32_t slot = slots.first; slot < slots.end; ++slot)
        roundOperands(gradInput(p, c, slot) + col, memory.data() + size_t{slot - slots.first} * kGradSide, columns,
                      c.operand_bits);
    return memory.data();
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

// Rows [row, row + rows) of the columns whose x is packed.
void addRows(const ExpertWeightGrad& p, const Constants& c, const GradSlots& slots, const float* x, uint32_t row,
             uint32_t rows, uint32_t col, SlotTile& tile) {
    tile.x = x;
    tile.grad_out = p.grad_out.at + uint64_t{slots.first} * p.rows + row;
    tile.step = p.rows;
    tile.rows = rows;
    tile.columns = std::min(kGradSide, p.cols - col);
    tile.slots = slots.end - slots.first;
    tile.before = slots.before;
    tile.fused = c.fused != 0;
    std::fill_n(tile.totals[0], sizeof tile.totals / sizeof(float), -0.0f);
    if (GradSlots::hasTotal(slots.before)) load(p, slots.totals, row, col, tile, tile.totals);
    if (GradSlots::hasPartial(slots.before)) load(p, slots.partials, row, col, tile, tile.start);
    run(tile);
    if (slots.last) return addGradients(tile, slots.grads, gradWord(p, row, col), p.cols, p.status);
    if (GradSlots::hasTotal(slots.after())) keep(p, slots.totals, row, col, tile, tile.totals);
    if (GradSlots::hasPartial(slots.after())) keep(p, slots.partials, row, col, tile, tile.sums);
}

void addBias(const ExpertWeightGrad& p, const GradSlots& slots, uint32_t row, uint32_t rows) {
    std::vector<ChunkSum> sums;
    for (uint32_t r = 0; r < rows; ++r) sums.emplace_back(slots, p.bias + row + r);
    for (uint32_t slot = slots.first; slot < slots.end; ++slot)
        for (uint32_t r = 0; r < rows; ++r) sums[r].add(p.grad_out.at[uint64_t{slot} * p.rows + row + r]);
    for (uint32_t r = 0; r < rows; ++r) sums[r].finish(p, slots, p.bias + row + r);
}

}  // namespace

// Row tiles of one column tile are taken together, two at a time.
void expert_weight_grad(const ExpertWeightGrad& p, const Constants& c, Groups groups) {
    const uint32_t row_tiles = ceilDiv(p.rows, kTileRows), col_tiles = ceilDiv(p.cols, kGradSide);
    const uint64_t count = std::min(groups.end, uint64_t{gradExperts(p, c)} * row_tiles * col_tiles);
    auto tile = std::make_unique<SlotTile>();
    for (uint64_t group = groups.begin; group < count;) {
        GradSlots slots = findSlots(p, c, uint32_t(group / row_tiles / col_tiles));
        uint64_t next = std::min(count, (group / row_tiles + 1) * row_tiles);
        uint32_t row = uint32_t(group % row_tiles) * kTileRows,
                 col = uint32_t(group / row_tiles % col_tiles) * kGradSide;
        uint32_t end = std::min(p.rows, row + uint32_t(next - group) * kTileRows);
        group = next;
        if (slots.nothing()) continue;
        const float* x = packInput(p, c, slots, col, std::min(kGradSide, p.cols - col));
        for (; row < end; row += kGradSide) {
            addRows(p, c, slots, x, row, std::min(kGradSide, end - row), col, *tile);
            if ((c.bias & kBias) != 0 && col == 0) addBias(p, slots, row, std::min(kGradSide, end - row));
        }
    }
}

}  // namespace simd
}  // namespace v1
}  // namespace vkmoe
