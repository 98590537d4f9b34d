#include "engine/cpu/simd/grad_tile.h"

#include <type_traits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/cpu/simd/grad_tile.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "engine/cpu/simd/panel_weights-inl.h"

HWY_BEFORE_NAMESPACE();
namespace vkmoe {
inline namespace v1 {
namespace simd {
namespace HWY_NAMESPACE {

constexpr size_t kGradColumns = kLanes == kPanel ? 4 : 2;  // vectors of a register tile: as the registers allow
constexpr uint32_t kGradRows = 6;

HWY_INLINE void fetch(const Ahead& ahead) {
    for (uint32_t line = 0; line < ahead.lines; ++line)
        for (uint32_t run = 0; run < ahead.runs; ++run)
            __builtin_prefetch(ahead.at + run * ahead.step + line * kPanel, 0, 3);
}

// A block of 1 to 32 terms: totals += (start + products in ascending order).
struct GradBlock {
    const float* x;
    uint32_t terms;
    const float* start = nullptr;  // [rows][64]; null: the first product starts a sum
    float* totals;                 // [rows][64]
    bool add_totals;               // else the block's sums are the first
    const float* weights;          // as the layout says
    Ahead ahead;
    float* grads = nullptr;  // where the totals are added to, else they are kept; panels `panel` apart, [rows][16]
    size_t panel = 0;
    bool fresh = false;       // or assigned
    int32_t* seen = nullptr;  // what was largest there, a vector
};

// Where term k of row r lies in x, and where panel i of it in the weights.
struct RowLayout {  // packed rows; panels apart, [terms][16] each
    static constexpr size_t kRow = kBlock, kTerm = 1, kPanelStep = kBlock * kPanel, kWeightStep = kPanel;
};
struct TermLayout {  // packed slots of both
    static constexpr size_t kRow = 1, kTerm = kGradSide, kPanelStep = kPanel, kWeightStep = kGradSide;
};

// The gradient's rule on sums, see addGradients.
template <size_t kRows>
HWY_INLINE void addToGrads(const GradBlock& block, const V (&sums)[kRows][kGradColumns], size_t row, size_t vector) {
    VI seen = hn::Load(DI(), block.seen);
    VKMOE_UNROLL
    for (size_t c = 0; c < kGradColumns; ++c) {
        float* grads = block.grads + (vector + c) / kPerPanel * block.panel + (vector + c) % kPerPanel * kLanes;
        VKMOE_UNROLL
        for (size_t r = 0; r < kRows; ++r) {
            float* at = grads + (row + r) * kPanel;
            const V sum = block.fresh ? sums[r][c] : hn::Add(hn::LoadU(D(), at), sums[r][c]);
            hn::StoreU(stateRule(sum), D(), at);
            seen = largest(seen, sum);
        }
    }
    hn::Store(seen, DI(), block.seen);
}

template <bool kFused, class Layout, size_t kRows>
HWY_INLINE void multiplyBlock(const GradBlock& block, size_t row, size_t vector) {
    const D d;
    V s[kRows][kGradColumns];
    const float* w[kGradColumns];
    const float* x = block.x + row * Layout::kRow;
    const float* start = block.start ? block.start + row * kRunOutputs + vector * kLanes : nullptr;
    VKMOE_UNROLL
    for (size_t c = 0; c < kGradColumns; ++c) {
        w[c] = block.weights + (vector + c) / kPerPanel * Layout::kPanelStep + (vector + c) % kPerPanel * kLanes;
        V weight = hn::LoadU(d, w[c]);
        VKMOE_UNROLL
        for (size_t r = 0; r < kRows; ++r) {
            V x0 = hn::Set(d, x[r * Layout::kRow]);
            s[r][c] = start ? accumulate<kFused>(x0, weight, hn::Load(d, start + r * kRunOutputs + c * kLanes))
                            : hn::Mul(x0, weight);
        }
    }
    for (uint32_t k = 1; k < block.terms; ++k) {
        V weight[kGradColumns];
        VKMOE_UNROLL
        for (size_t c = 0; c < kGradColumns; ++c) weight[c] = hn::LoadU(d, w[c] + k * Layout::kWeightStep);
        VKMOE_UNROLL
        for (size_t r = 0; r < kRows; ++r) {
            V xk = hn::Set(d, x[r * Layout::kRow + k * Layout::kTerm]);
            VKMOE_UNROLL
            for (size_t c = 0; c < kGradColumns; ++c) s[r][c] = accumulate<kFused>(xk, weight[c], s[r][c]);
        }
    }
    const bool add = block.add_totals;
    float* total = block.totals + row * kRunOutputs + vector * kLanes;
    if (add) {
        VKMOE_UNROLL
        for (size_t r = 0; r < kRows; ++r) {
            VKMOE_UNROLL
            for (size_t c = 0; c < kGradColumns; ++c)
                s[r][c] = hn::Add(hn::Load(d, total + r * kRunOutputs + c * kLanes), s[r][c]);
        }
    }
    if constexpr (std::is_same_v<Layout, TermLayout>)
        if (block.grads) return addToGrads<kRows>(block, s, row, vector);
    VKMOE_UNROLL
    for (size_t r = 0; r < kRows; ++r) {
        VKMOE_UNROLL
        for (size_t c = 0; c < kGradColumns; ++c) hn::Store(s[r][c], d, total + r * kRunOutputs + c * kLanes);
    }
}

template <bool kFused, class Layout>
HWY_INLINE void multiplyRows(const GradBlock& block, size_t row, size_t count, size_t vector) {
    switch (count) {
        case 6:
            return multiplyBlock<kFused, Layout, 6>(block, row, vector);
        case 5:
            return multiplyBlock<kFused, Layout, 5>(block, row, vector);
        case 4:
            return multiplyBlock<kFused, Layout, 4>(block, row, vector);
        case 3:
            return multiplyBlock<kFused, Layout, 3>(block, row, vector);
        case 2:
            return multiplyBlock<kFused, Layout, 2>(block, row, vector);
        default:
            return multiplyBlock<kFused, Layout, 1>(block, row, vector);
    }
}

// Rows are shared out evenly over register tiles; outputs beyond `outputs` that fill up a tile are computed, too.
template <bool kFused, class Layout>
HWY_NOINLINE void multiplyAll(const GradBlock& block, uint32_t rows, uint32_t outputs) {
    const size_t vectors = ceilDiv(outputs, uint32_t{kLanes});
    uint32_t parts = ceilDiv(rows, kGradRows);
    for (uint32_t part = 0; part < parts; ++part) {
        uint32_t row = rows * part / parts, count = rows * (part + 1) / parts - row;
        fetch(block.ahead.part(part, part + 1, parts));
        for (size_t v = 0; v < vectors; v += kGradColumns) multiplyRows<kFused, Layout>(block, row, count, v);
    }
}

// ---- weights by columns ---------------------------------------------------------------------------------------------

#if HWY_TARGET == HWY_SCALAR  // has no vectors of four
template <uint32_t kFormat>
HWY_INLINE void turnPanel(const ColumnTile& tile, const uint32_t* panel, uint32_t first, float* out) {
    for (uint32_t row = 0; row < kPanel; ++row)
        for (uint32_t i = 0; i < kPanel; ++i)
            out[row * kPanel + i] = panelWeight(panel, std::min(first + i, tile.cols - 1), row, kFormat);
}
#else
// Four words of each of kLanes/4 rows of words, the first ones at `from`, `step` rows apart.
HWY_INLINE VU blocksOf(const uint32_t* from, size_t step) {
    const DU du;
    VU words = hn::LoadDup128(du, from);
    VKMOE_UNROLL
    for (size_t b = 1; b < kLanes / 4; ++b)
        words = hn::IfThenElse(hn::Not(hn::FirstN(du, 4 * b)), hn::LoadDup128(du, from + b * step * kPanel), words);
    return words;
}

// Sixteen columns of a panel as [16 rows][16 columns]; those past the last one repeat it.
template <uint32_t kFormat>
HWY_INLINE void turnPanel(const ColumnTile& tile, const uint32_t* panel, uint32_t first, float* out) {
    constexpr uint32_t kColumns = columnsOfWord(kFormat);
    const uint32_t* words = panel + size_t{first / kColumns} * kPanel;
    alignas(64) uint32_t edge[kPanel / kColumns * kPanel];
    if (first + kPanel > tile.cols) {
        const uint32_t last = (tile.cols - 1) / kColumns - first / kColumns;
        for (uint32_t j = 0; j < kPanel / kColumns; ++j)
            std::copy_n(words + size_t{std::min(j, last)} * kPanel, kPanel, edge + j * kPanel);
        words = edge;
    }
    VKMOE_UNROLL
    for (size_t v = 0; v < kPanel; v += kLanes)
        for (size_t row = 0; row < kPanel; row += 4) {
            V columns[4];
            VKMOE_UNROLL
            for (size_t i = 0; i < 4; i += kColumns) {
                VU found = blocksOf(words + (v + i) / kColumns * kPanel + row, 4 / kColumns);
                columns[i] = decode<kFormat, 0>(found);
                if constexpr (kColumns == 2) columns[i + 1] = decode<kFormat, 1>(found);
            }
            transposeSquares(D(), columns[0], columns[1], columns[2], columns[3]);  // each block held one column's rows
            VKMOE_UNROLL
            for (size_t i = 0; i < 4; ++i) hn::Store(columns[i], D(), out + (row + i) * kPanel + v);
        }
}
#endif

// Rows k0 .. of the tile's columns.
template <uint32_t kFormat>
HWY_NOINLINE void decodeBlock(const ColumnTile& tile, uint32_t k0, const GradBlock& block,
                              float (&weights)[kTilePanels][kBlock * kPanel]) {
    const size_t words = size_t{panelSteps(tile.cols, kFormat)} * kPanel;
    for (uint32_t k = 0; k < block.terms; k += kPanel)
        for (uint32_t i = 0; i < kTilePanels && tile.first + i * kPanel < tile.cols; ++i)
            turnPanel<kFormat>(tile, tile.panels + (k0 + k) / kPanel * words, tile.first + i * kPanel,
                               weights[i] + k * kPanel);
}

// What is read after the block of rows from k0 on: the tile's next block, or the next tile's first.
Ahead afterBlock(const ColumnTile& tile, uint32_t k0) {
    const bool last = k0 + kBlock >= tile.rows;
    const uint32_t row = last ? 0 : k0 + kBlock, col = last ? tile.first + kRunOutputs : tile.first;
    if (col >= tile.cols) return {};
    const size_t words = size_t{panelSteps(tile.cols, tile.format)} * kPanel;
    const uint32_t columns = columnsOfWord(tile.format);
    return {tile.panels + row / kPanel * words + col / columns * kPanel, words,
            ceilDiv(std::min(uint32_t{kBlock}, tile.rows - row), kPanel),
            std::min(kRunOutputs, tile.cols - col) / columns};
}

void runColumns(ColumnTile& tile) {
    alignas(64) float weights[kTilePanels][kBlock * kPanel] = {};
    GradBlock block;
    block.totals = tile.totals[0];
    block.weights = weights[0];
    const uint32_t outputs = std::min(kRunOutputs, tile.cols - tile.first);
    for (uint32_t k0 = 0; k0 < tile.rows; k0 += kBlock) {
        block.x = tile.x.at + k0 / kBlock * tile.x.step;
        block.terms = std::min(uint32_t{kBlock}, tile.rows - k0);
        block.add_totals = k0 != 0;
        block.ahead = afterBlock(tile, k0);
        tile.format == kF32 ? decodeBlock<kF32>(tile, k0, block, weights)
                            : decodeBlock<kBf16>(tile, k0, block, weights);
        tile.fused ? multiplyAll<true, RowLayout>(block, tile.row_count, outputs)
                   : multiplyAll<false, RowLayout>(block, tile.row_count, outputs);
    }
}

// ---- sums over slots ------------------------------------------------------------------------------------------------

// A block of a bias's tile: the terms are the weights themselves.
HWY_INLINE void addTerms(const GradBlock& block, uint32_t outputs) {
    const D d;
    for (size_t i = 0; i < outputs; i += kLanes) {
        const float* terms = block.weights + i;
        V s = hn::Load(d, terms);
        if (block.start) s = hn::Add(hn::Load(d, block.start + i), s);
        for (uint32_t k = 1; k < block.terms; ++k) s = hn::Add(s, hn::Load(d, terms + k * TermLayout::kWeightStep));
        if (block.add_totals) s = hn::Add(hn::Load(d, block.totals + i), s);
        hn::Store(s, d, block.totals + i);
    }
}

void runSlots(SlotTile& tile) {
    alignas(64) int32_t seen[kLanes] = {};
    GradBlock block;
    block.panel = size_t{tile.cols} * kPanel;
    block.fresh = tile.fresh;
    block.seen = seen;
    Ahead ahead;  // the gradients come after the products
    if (tile.last)
        ahead = {reinterpret_cast<const uint32_t*>(tile.grads), block.panel, ceilDiv(tile.rows, uint32_t{kPanel}),
                 tile.columns};
    bool has_total = GradSlots::hasTotal(tile.before);
    tile.stored = tile.last && tile.slots != 0 && tile.x && tile.rows == kGradSide;
    for (uint32_t slot = 0; slot < tile.slots; slot += block.terms) {
        uint32_t begin = (tile.before + slot) % kBlock;
        block.terms = std::min(kBlock - begin, tile.slots - slot);
        block.x = tile.x ? tile.x + size_t{slot} * kGradSide : nullptr;
        block.weights = tile.grad_out + size_t{slot} * kGradSide;
        block.start = begin != 0 ? tile.start[0] : nullptr;
        bool finished = tile.last || begin + block.terms == kBlock;
        block.ahead = ahead.part(slot, slot + block.terms, tile.slots);
        block.totals = finished ? tile.totals[0] : tile.sums[0];
        block.add_totals = finished && has_total;
        block.grads = tile.stored && slot + block.terms == tile.slots ? tile.grads : nullptr;
        if (!block.x)
            addTerms(block, tile.rows);
        else if (tile.fused)
            multiplyAll<true, TermLayout>(block, tile.columns, tile.rows);
        else
            multiplyAll<false, TermLayout>(block, tile.columns, tile.rows);
        has_total = has_total || finished;
    }
    tile.out_of_range = outOfRange(hn::Load(DI(), seen));
    if (tile.slots != 0 || !GradSlots::hasPartial(tile.before)) return;
    auto& to = tile.last ? tile.totals : tile.sums;
    for (size_t i = 0; i < kGradSide; ++i)
        for (size_t j = 0; j < kGradSide; ++j)
            to[i][j] = tile.last && has_total ? to[i][j] + tile.start[i][j] : tile.start[i][j];
}

// Adds a column's totals to its `rows` gradients; what was largest, with `seen`.
template <bool kFresh>
HWY_INLINE VI addColumn(const float* totals, float* grads, uint32_t rows, VI seen) {
    for (uint32_t i = 0; i < rows; i += kLanes) {
        V sum = hn::Load(D(), totals + i);
        if constexpr (!kFresh) sum = hn::Add(loadSome(grads + i, rows - i, 0.0f), sum);
        storeSome(stateRule(sum), grads + i, rows - i);
        seen = largest(seen, sum);
    }
    return seen;
}

// Adds the totals of sixteen rows from `row` on; whether one is out of range.
bool addPanel(const SlotTile& tile, uint32_t row, uint32_t rows, float* grads) {
    VI seen = hn::Zero(DI());
    for (uint32_t col = 0; col < tile.columns; ++col)
        seen = tile.fresh ? addColumn<true>(tile.totals[col] + row, grads + col * kPanel, rows, seen)
                          : addColumn<false>(tile.totals[col] + row, grads + col * kPanel, rows, seen);
    return outOfRange(seen);
}

// What is out of range is stored as it is, and counted from there.
void addTile(const SlotTile& tile, uint32_t word, U32 status) {
    if (tile.stored && !tile.out_of_range) return;
    float* grads = tile.grads;
    for (uint32_t row = 0; row < tile.rows; row += kPanel, word += tile.cols * kPanel, grads += tile.cols * kPanel) {
        const uint32_t rows = std::min(uint32_t{kPanel}, tile.rows - row);
        if (!tile.stored && !addPanel(tile, row, rows, grads)) continue;
        for (uint32_t col = 0; col < tile.columns; ++col)
            for (uint32_t i = col * kPanel; i < col * kPanel + rows; ++i) checked(grads[i], status, word + i);
    }
}

}  // namespace HWY_NAMESPACE
}  // namespace simd
}  // namespace v1
}  // namespace vkmoe
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace vkmoe {
inline namespace v1 {
namespace simd {

HWY_EXPORT(runColumns);
HWY_EXPORT(runSlots);
HWY_EXPORT(addTile);

void run(ColumnTile& tile) { HWY_DYNAMIC_DISPATCH(runColumns)(tile); }
void run(SlotTile& tile) { HWY_DYNAMIC_DISPATCH(runSlots)(tile); }
void addGradients(const SlotTile& tile, uint32_t word, U32 status) {
    HWY_DYNAMIC_DISPATCH(addTile)(tile, word, status);
}

}  // namespace simd
}  // namespace v1
}  // namespace vkmoe
#endif
