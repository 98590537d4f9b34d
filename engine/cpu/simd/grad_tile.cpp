#include "engine/cpu/simd/grad_tile.h"

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

// Part `part` of what comes next.
HWY_INLINE void fetch(const Ahead& ahead, uint32_t part, uint32_t parts) {
    for (uint32_t line = ahead.lines * part / parts; line < ahead.lines * (part + 1) / parts; ++line)
        for (uint32_t run = 0; run < ahead.runs; ++run)
            __builtin_prefetch(ahead.at + run * ahead.step + line * kPanel, 0, 2);
}

// A block of at most 32 terms: totals += (start + products in ascending order).
struct GradBlock {
    const float* x;
    uint32_t terms;
    const float* start;  // of a row, then `start_step` on
    size_t start_step;
    float* totals;         // [rows][64]
    bool add_totals;       // else the block's sums are the first
    const float* weights;  // as the layout says
    Ahead ahead;
    alignas(64) float none[kRunOutputs];  // -0: where a sum starts

    GradBlock() { std::fill_n(none, kRunOutputs, -0.0f); }
    void startAtNothing() { start = none, start_step = 0; }
};

// Where term k of row r lies in x, and where panel i of it in the weights.
struct RowLayout {  // packed rows; panels apart, [terms][16] each
    static constexpr size_t kRow = kBlock, kTerm = 1, kPanelStep = kBlock * kPanel, kWeightStep = kPanel;
};
struct TermLayout {  // packed slots of both
    static constexpr size_t kRow = 1, kTerm = kGradSide, kPanelStep = kPanel, kWeightStep = kGradSide;
};

template <bool kFused, class Layout, size_t kRows>
HWY_INLINE void multiplyBlock(const GradBlock& block, size_t row, size_t vector) {
    const D d;
    V s[kRows][kGradColumns];
    const float* w[kGradColumns];
    const float* x = block.x + row * Layout::kRow;
    VKMOE_UNROLL
    for (size_t c = 0; c < kGradColumns; ++c) {
        w[c] = block.weights + (vector + c) / kPerPanel * Layout::kPanelStep + (vector + c) % kPerPanel * kLanes;
        VKMOE_UNROLL
        for (size_t r = 0; r < kRows; ++r)
            s[r][c] = hn::Load(d, block.start + (row + r) * block.start_step + (vector + c) * kLanes);
    }
    for (uint32_t k = 0; k < block.terms; ++k) {
        V weight[kGradColumns];
        VKMOE_UNROLL
        for (size_t c = 0; c < kGradColumns; ++c) weight[c] = hn::LoadU(d, w[c] + k * Layout::kWeightStep);
        VKMOE_UNROLL
        for (size_t r = 0; r < kRows; ++r) {
            V xk = hn::Set(d, x[r * Layout::kRow + k * Layout::kTerm]);
            VKMOE_UNROLL
            for (size_t c = 0; c < kGradColumns; ++c)
                s[r][c] = kFused ? hn::MulAdd(xk, weight[c], s[r][c]) : hn::Add(s[r][c], hn::Mul(xk, weight[c]));
        }
    }
    const bool add = block.add_totals;
    float* total = block.totals + row * kRunOutputs + vector * kLanes;
    VKMOE_UNROLL
    for (size_t r = 0; r < kRows; ++r, total += kRunOutputs) {
        VKMOE_UNROLL
        for (size_t c = 0; c < kGradColumns; ++c) {
            if (add) s[r][c] = hn::Add(hn::Load(d, total + c * kLanes), s[r][c]);
            hn::Store(s[r][c], d, total + c * kLanes);
        }
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
        fetch(block.ahead, part, parts);
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
// Four words of each of kLanes/4 rows of words, `step` apart.
HWY_INLINE VU blocksOf(const uint32_t* const* rows, size_t step, size_t at) {
    const DU du;
    VU words = hn::LoadDup128(du, rows[0] + at);
    VKMOE_UNROLL
    for (size_t b = 1; b < kLanes / 4; ++b)
        words = hn::IfThenElse(hn::Not(hn::FirstN(du, 4 * b)), hn::LoadDup128(du, rows[b * step] + at), words);
    return words;
}

// Four rows, of which each block of lanes holds one column's: turned round, and stored as [row][column].
HWY_INLINE void turn(const V (&rows)[4], float* to) {
    const D d;
    V low = hn::InterleaveLower(d, rows[0], rows[2]), low2 = hn::InterleaveLower(d, rows[1], rows[3]);
    V high = hn::InterleaveUpper(d, rows[0], rows[2]), high2 = hn::InterleaveUpper(d, rows[1], rows[3]);
    hn::Store(hn::InterleaveLower(d, low, low2), d, to);
    hn::Store(hn::InterleaveUpper(d, low, low2), d, to + kPanel);
    hn::Store(hn::InterleaveLower(d, high, high2), d, to + 2 * kPanel);
    hn::Store(hn::InterleaveUpper(d, high, high2), d, to + 3 * kPanel);
}

// Sixteen columns of a panel as [16 rows][16 columns]; those past the last one repeat it.
template <uint32_t kFormat>
HWY_INLINE void turnPanel(const ColumnTile& tile, const uint32_t* panel, uint32_t first, float* out) {
    constexpr uint32_t kColumns = columnsOfWord(kFormat);
    const uint32_t* words[kPanel / kColumns];
    for (uint32_t j = 0; j < kPanel / kColumns; ++j)
        words[j] = panel + size_t{std::min(first / kColumns + j, (tile.cols - 1) / kColumns)} * kPanel;
    for (size_t v = 0; v < kPanel; v += kLanes)
        for (size_t row = 0; row < kPanel; row += 4) {
            V columns[4];
            VKMOE_UNROLL
            for (size_t i = 0; i < 4; i += kColumns) {
                VU found = blocksOf(words + (v + i) / kColumns, 4 / kColumns, row);
                columns[i] = decode<kFormat, 0>(found);
                if constexpr (kColumns == 2) columns[i + 1] = decode<kFormat, 1>(found);
            }
            turn(columns, out + row * kPanel + v);
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

// The tile's columns of the block of rows from k0 on.
Ahead columnsFrom(const ColumnTile& tile, uint32_t k0) {
    if (k0 >= tile.rows) return {};
    const size_t words = size_t{panelSteps(tile.cols, tile.format)} * kPanel;
    const uint32_t columns = columnsOfWord(tile.format), first = tile.first / columns;
    return {tile.panels + k0 / kPanel * words + first * kPanel, words,
            ceilDiv(std::min(uint32_t{kBlock}, tile.rows - k0), kPanel),
            std::min(kRunOutputs, tile.cols - tile.first) / columns};
}

void runColumns(ColumnTile& tile) {
    alignas(64) float weights[kTilePanels][kBlock * kPanel] = {};
    GradBlock block;
    block.startAtNothing();
    block.totals = tile.totals[0];
    block.weights = weights[0];
    const uint32_t outputs = std::min(kRunOutputs, tile.cols - tile.first);
    for (uint32_t k0 = 0; k0 < tile.rows; k0 += kBlock) {
        block.x = tile.x.at + k0 / kBlock * tile.x.step;
        block.terms = std::min(uint32_t{kBlock}, tile.rows - k0);
        block.add_totals = k0 != 0;
        block.ahead = columnsFrom(tile, k0 + kBlock);
        tile.format == kF32 ? decodeBlock<kF32>(tile, k0, block, weights)
                            : decodeBlock<kBf16>(tile, k0, block, weights);
        tile.fused ? multiplyAll<true, RowLayout>(block, tile.row_count, outputs)
                   : multiplyAll<false, RowLayout>(block, tile.row_count, outputs);
    }
}

// ---- sums over slots ------------------------------------------------------------------------------------------------

void runSlots(SlotTile& tile) {
    GradBlock block;
    bool has_total = GradSlots::hasTotal(tile.before);
    for (uint32_t slot = 0; slot < tile.slots; slot += block.terms) {
        uint32_t begin = (tile.before + slot) % kBlock;
        block.terms = std::min(kBlock - begin, tile.slots - slot);
        block.x = tile.x + size_t{slot} * kGradSide;
        block.weights = tile.grad_out + size_t{slot} * kGradSide;
        block.startAtNothing();
        if (begin != 0) block.start = tile.start[0], block.start_step = kGradSide;
        bool finished = tile.last || begin + block.terms == kBlock;
        if (slot + block.terms == tile.slots) block.ahead = tile.ahead;
        block.totals = finished ? tile.totals[0] : tile.sums[0];
        block.add_totals = finished && has_total;
        tile.fused ? multiplyAll<true, TermLayout>(block, tile.columns, tile.rows)
                   : multiplyAll<false, TermLayout>(block, tile.columns, tile.rows);
        has_total = has_total || finished;
    }
    if (tile.slots != 0 || !GradSlots::hasPartial(tile.before)) return;
    auto& to = tile.last ? tile.totals : tile.sums;
    for (size_t i = 0; i < kGradSide; ++i)
        for (size_t j = 0; j < kGradSide; ++j)
            to[i][j] = tile.last && has_total ? to[i][j] + tile.start[i][j] : tile.start[i][j];
}

HWY_INLINE void addPanel(const float* totals, uint32_t* page, uint32_t word, uint32_t rows, U32 status) {
    const D d;
    for (uint32_t i = 0; i < rows; i += kLanes) {
        float* grad = reinterpret_cast<float*>(page + word + i);
        V sum = hn::Add(loadSome(grad, rows - i, 0.0f), hn::Load(d, totals + i));
        storeSome(stateRule(sum), grad, rows - i);
        if (!outOfRange(magnitudeBits(sum))) continue;
        HWY_ALIGN float values[kLanes];
        hn::Store(sum, d, values);
        for (uint32_t j = i; j < std::min(rows, i + uint32_t{kLanes}); ++j) checked(values[j - i], status, word + j);
    }
}

void addTile(const SlotTile& tile, uint32_t* page, uint32_t word, uint32_t cols, U32 status) {
    for (uint32_t row = 0; row < tile.rows; row += kPanel, word += cols * kPanel)
        for (uint32_t col = 0; col < tile.columns; ++col)
            addPanel(tile.totals[col] + row, page, word + col * kPanel, std::min(uint32_t{kPanel}, tile.rows - row),
                     status);
}

void roundRow(const float* from, float* to, uint32_t count, uint32_t bits) {
    for (uint32_t i = 0; i < count; i += kLanes)
        storeSome(asOperand(loadSome(from + i, count - i, 0.0f), bits), to + i, count - i);
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
HWY_EXPORT(roundRow);

void run(ColumnTile& tile) { HWY_DYNAMIC_DISPATCH(runColumns)(tile); }
void run(SlotTile& tile) { HWY_DYNAMIC_DISPATCH(runSlots)(tile); }
void addGradients(const SlotTile& tile, uint32_t* page, uint32_t word, uint32_t cols, U32 status) {
    HWY_DYNAMIC_DISPATCH(addTile)(tile, page, word, cols, status);
}
void roundOperands(const float* from, float* to, uint32_t count, uint32_t bits) {
    HWY_DYNAMIC_DISPATCH(roundRow)(from, to, count, bits);
}

}  // namespace simd
}  // namespace v1
}  // namespace vkmoe
#endif
