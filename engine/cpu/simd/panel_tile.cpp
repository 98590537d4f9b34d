#include "engine/cpu/simd/panel_tile.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/cpu/simd/panel_tile.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "engine/cpu/simd/panel_stream-inl.h"
#include "engine/cpu/simd/panel_weights-inl.h"

HWY_BEFORE_NAMESPACE();
namespace vkmoe {
inline namespace v1 {
namespace simd {
namespace HWY_NAMESPACE {

constexpr size_t kColumns = kLanes == kPanel ? 4 : 2;  // vectors of a register tile: as the registers allow
constexpr uint32_t kRegisterRows = 6;
constexpr uint32_t kLineWords = 16;  // of a cache line: one row of words of a panel

// A block of 32 columns, ready for every row.
struct Block {
    const float* weights[kTilePanels];  // [terms][16] each
    uint32_t terms;
    const uint32_t* next[kTilePanels];  // where the next block's words start
    uint32_t next_lines;                // of one panel
    const float* x;                     // [rows][32]
    const float* before;                // what the block's sums are added to, of a row: then `before_step` on
    size_t before_step;
    alignas(64) float scales[kTilePanels * kPanel];
    alignas(64) float decoded[kTilePanels][kBlock * kPanel];
};

// The first product starts a sum, the others follow in ascending k. One pointer a panel: sixteen registers'
// exact tile is 36 instructions a column, what a processor begins in the six cycles that its products take, so that
// every further one that only counts is felt.
template <bool kFused, size_t kRows, size_t kVectors>
HWY_INLINE void sumTerms(const Block& block, size_t row, size_t vector, V (&s)[kRows][kVectors]) {
    constexpr size_t kPanels = (kVectors + kPerPanel - 1) / kPerPanel;
    const D d;
    const float* x = block.x + row * kBlock;
    const float* end = x + block.terms;
    const float* w[kPanels];
    VKMOE_UNROLL
    for (size_t i = 0; i < kPanels; ++i) w[i] = block.weights[vector / kPerPanel + i] + vector % kPerPanel * kLanes;
    VKMOE_UNROLL
    for (size_t c = 0; c < kVectors; ++c) {
        V weight = hn::LoadU(d, w[c / kPerPanel] + c % kPerPanel * kLanes);
        VKMOE_UNROLL
        for (size_t r = 0; r < kRows; ++r) s[r][c] = hn::Mul(hn::Set(d, x[r * kBlock]), weight);
    }
    while (++x < end) {
        V weight[kVectors];
        VKMOE_UNROLL
        for (size_t i = 0; i < kPanels; ++i) w[i] += kPanel;
        VKMOE_UNROLL
        for (size_t c = 0; c < kVectors; ++c) weight[c] = hn::LoadU(d, w[c / kPerPanel] + c % kPerPanel * kLanes);
        VKMOE_UNROLL
        for (size_t r = 0; r < kRows; ++r) {
            V xk = hn::Set(d, x[r * kBlock]);
            VKMOE_UNROLL
            for (size_t c = 0; c < kVectors; ++c) s[r][c] = accumulate<kFused>(xk, weight[c], s[r][c]);
        }
    }
}

template <bool kScaled, bool kFused, size_t kRows, size_t kVectors>
HWY_INLINE void multiplyBlock(PanelTile& tile, const Block& block, size_t row, size_t vector) {
    const D d;
    V s[kRows][kVectors];
    sumTerms<kFused>(block, row, vector, s);
    // In variables of their own: a vector's store might change members, as far as the compiler knows.
    const size_t step = block.before_step;
    const float* before = block.before + row * step + vector * kLanes;
    const float* scales = block.scales + vector * kLanes;
    float* total = tile.totals[row] + vector * kLanes;
    VKMOE_UNROLL
    for (size_t r = 0; r < kRows; ++r, before += step, total += kRunOutputs) {
        VKMOE_UNROLL
        for (size_t c = 0; c < kVectors; ++c) {
            if constexpr (kScaled) s[r][c] = hn::Mul(s[r][c], hn::Load(d, scales + c * kLanes));
            hn::Store(hn::Add(hn::Load(d, before + c * kLanes), s[r][c]), d, total + c * kLanes);
        }
    }
}

// `count` rows, 1..kRegisterRows.
template <bool kScaled, bool kFused, size_t kVectors>
HWY_INLINE void multiplyRows(PanelTile& tile, const Block& block, size_t row, size_t count, size_t vector) {
    switch (count) {
        case 6:
            return multiplyBlock<kScaled, kFused, 6, kVectors>(tile, block, row, vector);
        case 5:
            return multiplyBlock<kScaled, kFused, 5, kVectors>(tile, block, row, vector);
        case 4:
            return multiplyBlock<kScaled, kFused, 4, kVectors>(tile, block, row, vector);
        case 3:
            return multiplyBlock<kScaled, kFused, 3, kVectors>(tile, block, row, vector);
        case 2:
            return multiplyBlock<kScaled, kFused, 2, kVectors>(tile, block, row, vector);
        default:
            return multiplyBlock<kScaled, kFused, 1, kVectors>(tile, block, row, vector);
    }
}

// `lines` of every panel's next words, from line `first` on: they come into the cache while this block is summed.
HWY_INLINE void fetchNext(const Block& block, uint32_t panels, uint32_t first, uint32_t lines) {
    for (uint32_t i = 0; i < panels; ++i)
        for (uint32_t line = 0; line < lines; ++line) hwy::Prefetch(block.next[i] + (first + line) * kLineWords);
}

// Rows are shared out evenly over register tiles: a tile of one or two rows is slow. Branches fall alike from tile to
// tile: a tile is over in so few cycles that those of a branch guessed wrong are dear. Not inlined: constants of the
// decoding would take registers from the sums.
template <bool kScaled, bool kFused>
HWY_NOINLINE void multiplyAll(PanelTile& tile, const Block& block) {
    size_t vectors = tile.panel_count * kPerPanel;
    uint32_t parts = ceilDiv(tile.row_count, kRegisterRows), lines = ceilDiv(block.next_lines, parts);
    uint32_t least = tile.row_count / parts, larger = tile.row_count % parts, row = 0;
    for (uint32_t part = 0; part < parts; ++part) {
        uint32_t count = least + (part < larger);
        fetchNext(block, tile.panel_count, part * lines, lines);
        size_t v = 0;
        for (; v + kColumns <= vectors; v += kColumns)
            multiplyRows<kScaled, kFused, kColumns>(tile, block, row, count, v);
        for (; v < vectors; ++v) multiplyRows<kScaled, kFused, 1>(tile, block, row, count, v);
        row += count;
    }
}

template <uint32_t kFormat, uint32_t kColumn>
HWY_INLINE void storeColumns(VU words, float* out) {
    if constexpr (kFormat == kMxfp4 && kByteTables) {
        V values[kCodes];
        decodeCodes(words, values);
        VKMOE_UNROLL
        for (uint32_t i = 0; i < kCodes; ++i) hn::Store(values[i], D(), out + i * kPanel);
    } else if constexpr (kColumn < columnsOfWord(kFormat)) {
        hn::Store(decode<kFormat, kColumn>(words), D(), out + kColumn * kPanel);
        storeColumns<kFormat, kColumn + 1>(words, out);
    }
}

// The block from column k0 on: weights as floats, what to fetch next.
template <uint32_t kFormat>
HWY_INLINE void prepareBlock(const PanelTile& tile, uint32_t k0, Block& block) {
    [[maybe_unused]] const int shift = int(k0 / kBlock % kScaleGroup * 8);  // of its scale
    block.x = tile.x.at + k0 / kBlock * tile.x.step;
    block.terms = std::min(uint32_t{kBlock}, tile.cols - k0);
    const bool last = k0 + kBlock >= tile.cols;
    const uint64_t panel_words = uint64_t{panelSteps(tile.cols, kFormat)} * kPanel;
    block.next_lines = last && !tile.next ? 0 : ceilDiv(kBlock, columnsOfWord(kFormat));
    for (uint32_t i = 0; i < tile.panel_count; ++i) {
        const uint32_t* words = tile.panels[i] + firstWord<kFormat>(k0);
        block.next[i] = !last ? words + block.next_lines * kPanel : tile.next ? tile.next + i * panel_words : nullptr;
        block.weights[i] = kFormat == kF32 ? reinterpret_cast<const float*>(words) : block.decoded[i];
        if constexpr (kFormat == kF32) continue;
        for (uint32_t k = 0; k < block.terms; k += columnsOfWord(kFormat), words += kPanel)
            for (size_t v = 0; v < kPanel; v += kLanes)
                storeColumns<kFormat, 0>(hn::LoadU(DU(), words + v), block.decoded[i] + k * kPanel + v);
        if constexpr (kFormat == kMxfp4)
            for (size_t v = 0; v < kPanel; v += kLanes)
                hn::Store(blockScale(hn::ShiftRightSame(groupScales(tile.panels[i], k0, v), shift)), D(),
                          block.scales + i * kPanel + v);
    }
}

// Where the totals of a row and a panel start: at -0 without bias, for -0 + s is s, bit for bit.
HWY_INLINE void startPanel(const PanelTile& tile, uint32_t panel, float* totals) {
    const float* bias = tile.bias[panel];
    VKMOE_UNROLL
    for (size_t lane = 0; lane < kPanel; lane += kLanes)
        hn::Store(bias ? hn::LoadU(D(), bias + lane) : fromBits(0x80000000u), D(), totals + lane);
}

template <uint32_t kFormat, bool kFused>
HWY_NOINLINE void runBlocks(PanelTile& tile) {
    alignas(64) float start[kRunOutputs];
    for (uint32_t i = 0; i < tile.panel_count; ++i) startPanel(tile, i, start + i * kPanel);
    Block block;
    block.before = start;
    block.before_step = 0;
    for (uint32_t k0 = 0; k0 < tile.cols; k0 += kBlock) {
        prepareBlock<kFormat>(tile, k0, block);
        multiplyAll<kFormat == kMxfp4, kFused>(tile, block);
        block.before = tile.totals[0];
        block.before_step = kRunOutputs;
    }
}

template <uint32_t kFormat, bool kFused>
HWY_INLINE void runFormat(PanelTile& tile) {
    if (tile.row_count > streamRowsOf(kFormat)) return runBlocks<kFormat, kFused>(tile);
    for (uint32_t row = 0; row < tile.row_count; ++row)
        for (uint32_t i = 0; i < tile.panel_count; ++i) startPanel(tile, i, tile.totalsOf(row, i));
    runStream<kFormat, kFused>(tile);
}

template <bool kFused>
HWY_INLINE void runPrecision(PanelTile& tile) {
    switch (tile.format) {
        case kF32:
            return runFormat<kF32, kFused>(tile);
        case kF16:
            return runFormat<kF16, kFused>(tile);
        case kBf16:
            return runFormat<kBf16, kFused>(tile);
        default:
            return runFormat<kMxfp4, kFused>(tile);
    }
}

void runTile(PanelTile& tile) { tile.fused ? runPrecision<true>(tile) : runPrecision<false>(tile); }

const char* nameOfTarget() { return hwy::TargetName(HWY_TARGET); }

}  // namespace HWY_NAMESPACE
}  // namespace simd
}  // namespace v1
}  // namespace vkmoe
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace vkmoe {
inline namespace v1 {
namespace simd {

HWY_EXPORT(runTile);
HWY_EXPORT(nameOfTarget);

void run(PanelTile& tile) { HWY_DYNAMIC_DISPATCH(runTile)(tile); }
const char* targetName() { return HWY_DYNAMIC_DISPATCH(nameOfTarget)(); }

}  // namespace simd
}  // namespace v1
}  // namespace vkmoe
#endif
