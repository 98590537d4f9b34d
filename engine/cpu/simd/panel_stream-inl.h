// A few rows times panels: weights are decoded in registers as they stream by, so that memory is the limit.
//
// Every panel is a stream of its own: the processor fetches several streams ahead faster than one.
#if defined(VKMOE_SIMD_PANEL_STREAM) == defined(HWY_TARGET_TOGGLE)
#ifdef VKMOE_SIMD_PANEL_STREAM
#undef VKMOE_SIMD_PANEL_STREAM
#else
#define VKMOE_SIMD_PANEL_STREAM
#endif

#include <hwy/cache_control.h>

#include "engine/cpu/simd/panel_tile.h"
#include "engine/cpu/simd/panel_weights-inl.h"

HWY_BEFORE_NAMESPACE();
namespace vkmoe {
inline namespace v1 {
namespace simd {
namespace HWY_NAMESPACE {

// A row's products with every MXFP4 code stand in one register.
constexpr bool usesProducts(uint32_t format, size_t rows) { return kCodeTable && format == kMxfp4 && rows == 1; }

// Panels at a time: their sums stay in registers. The more, the more panels use the products of a value.
constexpr size_t streamsOf(uint32_t format, size_t rows) {
    return usesProducts(format, rows) ? kRowPanels : kLanes >= 8 ? 4 : 2;
}

// Most rows for which decoding in registers is the faster way.
constexpr uint32_t streamRowsOf(uint32_t format) { return kLanes != kPanel ? 1 : format == kMxfp4 ? 2 : 4; }

constexpr uint32_t kAhead = 32;  // rows of words that are fetched ahead

template <size_t kRows, size_t kPanels>
struct Streams {
    static constexpr size_t kVectors = kPanels * kPerPanel;
    const uint32_t* panels[kPanels];
    uint64_t words;           // of a panel
    uint64_t next;            // words from a panel's start to that of the next one in its stream
    V sums[kRows][kVectors];  // of the block
};

// Where, from a panel's start, the words lie that are read kAhead rows after those at `at`: past the panel's end at the
// start of the one that is next in its stream.
template <size_t kRows, size_t kPanels>
HWY_INLINE uint64_t ahead(const Streams<kRows, kPanels>& streams, uint64_t at) {
    uint64_t later = at + uint64_t{kAhead} * kPanel;
    return later < streams.words ? later : later + streams.next - streams.words;
}

// codeOf of a row of words in memory. kReadsOn: the row is not the last one, so that the words' upper halves can be
// read where they lie instead of being moved.
template <uint32_t kColumn, bool kReadsOn>
HWY_INLINE VU codeOfRow([[maybe_unused]] const uint32_t* row, VU words) {
#if HWY_TARGET != HWY_SCALAR
    if constexpr (kReadsOn && kColumn >= 4) {
        const hn::Repartition<uint16_t, DU> halves;
        return codeOf<kColumn - 4>(hn::BitCast(DU(), hn::LoadU(halves, reinterpret_cast<const uint16_t*>(row) + 1)));
    }
#endif
    return codeOf<kColumn>(words);
}

// s + x * w for column kColumn of each vector's row of words. Products that are looked up, exact or fused: a product of
// a code is rounded alike.
template <uint32_t kFormat, bool kFused, uint32_t kColumn, bool kReadsOn, size_t kRows, size_t kPanels>
HWY_INLINE void addColumn(Streams<kRows, kPanels>& streams, const uint32_t* const* rows, const VU* words,
                          const float* x) {
    if constexpr (usesProducts(kFormat, kRows)) {
        const V table = hn::Mul(hn::Set(D(), x[kColumn]), hn::Load(D(), kDoubledCodes));
        V products[kPanels * kPerPanel];
        VKMOE_UNROLL
        for (size_t v = 0; v < kPanels * kPerPanel; ++v)
            products[v] = lookUp(table, codeOfRow<kColumn, kReadsOn>(rows[v], words[v]));
        VKMOE_UNROLL
        for (size_t v = 0; v < kPanels * kPerPanel; ++v) streams.sums[0][v] = hn::Add(streams.sums[0][v], products[v]);
        return;
    }
    V factor[kRows];
    VKMOE_UNROLL
    for (size_t r = 0; r < kRows; ++r) factor[r] = hn::Set(D(), x[r * kBlock + kColumn]);
    VKMOE_UNROLL
    for (size_t v = 0; v < kPanels * kPerPanel; ++v) {
        V weight = decodeRow<kFormat, kColumn>(rows[v], words[v]);
        VKMOE_UNROLL
        for (size_t r = 0; r < kRows; ++r)
            streams.sums[r][v] = accumulate<kFused>(factor[r], weight, streams.sums[r][v]);
    }
}

// The columns of the words from kColumn on, as far as there are `columns`.
template <uint32_t kFormat, bool kFused, uint32_t kColumn, bool kReadsOn, size_t kRows, size_t kPanels>
HWY_INLINE void addColumns(Streams<kRows, kPanels>& streams, const uint32_t* const* rows, const VU* words,
                           const float* x, uint32_t columns) {
    if constexpr (kColumn < columnsOfWord(kFormat)) {
        if (kColumn >= columns) return;
        addColumn<kFormat, kFused, kColumn, kReadsOn>(streams, rows, words, x);
        addColumns<kFormat, kFused, kColumn + 1, kReadsOn>(streams, rows, words, x, columns);
    }
}

// The same for one row and the eight columns of MXFP4's words, decoded together. A vector's eight terms are a chain;
// the processor works on the next vectors meanwhile.
template <bool kFused, size_t kPanels>
HWY_INLINE void addCodes(Streams<1, kPanels>& streams, const VU* words, const float* x) {
    V factors[kCodes];
    VKMOE_UNROLL
    for (size_t i = 0; i < kCodes; ++i) factors[i] = hn::Set(D(), x[i]);
    VKMOE_UNROLL
    for (size_t v = 0; v < kPanels * kPerPanel; ++v) {
        V weights[kCodes];
        decodeCodes(words[v], weights);
        VKMOE_UNROLL
        for (size_t i = 0; i < kCodes; ++i)
            streams.sums[0][v] = accumulate<kFused>(factors[i], weights[i], streams.sums[0][v]);
    }
}

// Adds the columns of the row of words at `at`, as far as there are `columns`; x starts at the first one's. kReadsOn:
// another row follows.
template <uint32_t kFormat, bool kFused, bool kReadsOn, size_t kRows, size_t kPanels>
HWY_INLINE void addWords(Streams<kRows, kPanels>& streams, uint64_t at, const float* x, uint32_t columns) {
    const uint32_t* rows[kPanels * kPerPanel];
    VU words[kPanels * kPerPanel];
    const uint64_t next = ahead(streams, at);
    VKMOE_UNROLL
    for (size_t v = 0; v < kPanels * kPerPanel; ++v) {
        rows[v] = streams.panels[v / kPerPanel] + at + v % kPerPanel * kLanes;
        words[v] = hn::LoadU(DU(), rows[v]);
        if (v % kPerPanel == 0) hwy::Prefetch(streams.panels[v / kPerPanel] + next);
    }
    if constexpr (kFormat == kMxfp4 && kByteTables)
        addCodes<kFused>(streams, words, x);
    else
        addColumns<kFormat, kFused, 0, kReadsOn>(streams, rows, words, x, columns);
}

// Sums of the block [k0, k1), whose x starts at `x`. -0 is where a sum starts: -0 + p is p, bit for bit.
template <uint32_t kFormat, bool kFused, size_t kRows, size_t kPanels>
HWY_INLINE void sumBlock(Streams<kRows, kPanels>& streams, const float* x, uint32_t k0, uint32_t k1) {
    constexpr uint32_t kColumns = columnsOfWord(kFormat);
    VKMOE_UNROLL
    for (size_t i = 0; i < kRows * kPanels * kPerPanel; ++i)
        streams.sums[i / (kPanels * kPerPanel)][i % (kPanels * kPerPanel)] = fromBits(0x80000000u);
    uint64_t at = firstWord<kFormat>(k0);
    if constexpr (usesProducts(kFormat, kRows)) {  // MXFP4's blocks are whole
        for (uint32_t k = k0; k < k1 - kColumns; k += kColumns, at += kPanel, x += kColumns)
            addWords<kFormat, kFused, true>(streams, at, x, kColumns);
        return addWords<kFormat, kFused, false>(streams, at, x, kColumns);
    }
    for (uint32_t k = k0; k < k1; k += kColumns, at += kPanel, x += kColumns) {
        if (kColumns == 1 || kFormat == kMxfp4 || k + kColumns <= k1)
            addWords<kFormat, kFused, false>(streams, at, x, kColumns);
        else
            addWords<kFormat, kFused, false>(streams, at, x, k1 - k);
    }
}

// The block's sums to the rows' totals; MXFP4's multiplied by their scales.
template <uint32_t kFormat, size_t kRows, size_t kPanels>
HWY_INLINE void addBlock(PanelTile& tile, size_t panel, const Streams<kRows, kPanels>& streams,
                         [[maybe_unused]] VU* scales) {
    const D d;
    VKMOE_UNROLL
    for (size_t v = 0; v < kPanels * kPerPanel; ++v) {
        [[maybe_unused]] V scale;
        if constexpr (kFormat == kMxfp4) {
            scale = blockScale(scales[v]);
            scales[v] = hn::ShiftRight<8>(scales[v]);
        }
        VKMOE_UNROLL
        for (size_t r = 0; r < kRows; ++r) {
            float* total = tile.totalsOf(r, panel + v / kPerPanel) + v % kPerPanel * kLanes;
            V s = streams.sums[r][v];
            if constexpr (kFormat == kMxfp4) s = hn::Mul(s, scale);
            hn::Store(hn::Add(hn::Load(d, total), s), d, total);
        }
    }
}

template <uint32_t kFormat, bool kFused, size_t kRows, size_t kPanels>
HWY_INLINE void streamPanels(PanelTile& tile, size_t panel) {
    Streams<kRows, kPanels> streams;
    for (size_t i = 0; i < kPanels; ++i) streams.panels[i] = tile.panels[panel + i];
    streams.words = uint64_t{panelSteps(tile.cols, kFormat)} * kPanel;
    // Panels of one matrix lie one behind the other; of two matrices of a page, half of them each.
    const auto apart = static_cast<uint64_t>(streams.panels[kPanels - 1] - streams.panels[0]);
    const bool one_matrix = apart == (kPanels - 1) * streams.words;
    streams.next = streams.words * (one_matrix ? kPanels : kTilePanels);
    for (uint32_t k0 = 0; k0 < tile.cols;) {
        VU scales[kPanels * kPerPanel];
        if constexpr (kFormat == kMxfp4) {
            VKMOE_UNROLL
            for (size_t v = 0; v < kPanels * kPerPanel; ++v)
                scales[v] = groupScales(streams.panels[v / kPerPanel], k0, v % kPerPanel * kLanes);
        }
        const uint32_t end = std::min(k0 + kGroupColumns, tile.cols);
        for (; k0 < end; k0 += kBlock) {
            const float* x = tile.x.at + k0 / kBlock * tile.x.step;
            sumBlock<kFormat, kFused>(streams, x, k0, std::min(k0 + kBlock, end));
            addBlock<kFormat>(tile, panel, streams, scales);
        }
    }
}

template <uint32_t kFormat, bool kFused, size_t kRows>
HWY_INLINE void streamRows(PanelTile& tile) {
    constexpr size_t kStreams = streamsOf(kFormat, kRows);
    size_t panel = 0;
    for (; panel + kStreams <= tile.panel_count; panel += kStreams)
        streamPanels<kFormat, kFused, kRows, kStreams>(tile, panel);
    if constexpr (kStreams > kTilePanels) {
        for (; panel + kTilePanels <= tile.panel_count; panel += kTilePanels)
            streamPanels<kFormat, kFused, kRows, kTilePanels>(tile, panel);
    }
    for (; panel < tile.panel_count; ++panel) streamPanels<kFormat, kFused, kRows, 1>(tile, panel);
}

// 1..streamRowsOf(kFormat) rows whose totals have been started.
template <uint32_t kFormat, bool kFused>
HWY_NOINLINE void runStream(PanelTile& tile) {
    constexpr uint32_t kMost = streamRowsOf(kFormat);
    if (tile.row_count == 1) return streamRows<kFormat, kFused, 1>(tile);
    if constexpr (kMost >= 2) {
        if (tile.row_count == 2) return streamRows<kFormat, kFused, 2>(tile);
    }
    if constexpr (kMost >= 4) {
        if (tile.row_count == 3) return streamRows<kFormat, kFused, 3>(tile);
        return streamRows<kFormat, kFused, 4>(tile);
    }
}

}  // namespace HWY_NAMESPACE
}  // namespace simd
}  // namespace v1
}  // namespace vkmoe
HWY_AFTER_NAMESPACE();

#endif
