// One row times panels: weights are decoded in registers as they stream by, so that memory is the limit.
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

constexpr size_t kStreams = kLanes >= 8 ? 4 : 2;  // panels at a time: their sums stay in registers
constexpr uint32_t kAhead = 16;                   // rows of words that are fetched ahead

template <bool kFused>
HWY_INLINE V accumulate(V x, V w, V s) {
    if constexpr (kFused) return hn::MulAdd(x, w, s);
    return hn::Add(s, hn::Mul(x, w));
}

template <size_t kPanels>
struct Streams {
    static constexpr size_t kVectors = kPanels * kPerPanel;
    const uint32_t* panels[kPanels];
    V sums[kVectors];  // of the block
};

// s + x * w for column kColumn of each vector's words. The products of x and every code are looked up: exact or fused,
// a product of a code is rounded alike.
template <uint32_t kFormat, bool kFused, uint32_t kColumn, size_t kPanels>
HWY_INLINE void addColumn(Streams<kPanels>& streams, const VU* words, V x) {
    constexpr bool kProducts = kFormat == kMxfp4 && kCodeTable;
    V products = x;
    if constexpr (kProducts) products = hn::Mul(x, hn::Load(D(), kDoubledCodes));
    VKMOE_UNROLL
    for (size_t v = 0; v < Streams<kPanels>::kVectors; ++v) {
        V& s = streams.sums[v];
        if constexpr (kProducts)
            s = hn::Add(s, lookUp(products, kColumn == 0 ? words[v] : hn::ShiftRight<4 * kColumn>(words[v])));
        else
            s = accumulate<kFused>(x, decode<kFormat, kColumn>(words[v]), s);
    }
}

// The columns of the words from kColumn on, as far as there are `columns`.
template <uint32_t kFormat, bool kFused, uint32_t kColumn, size_t kPanels>
HWY_INLINE void addColumns(Streams<kPanels>& streams, const VU* words, const float* x, uint32_t columns) {
    if constexpr (kColumn < columnsOfWord(kFormat)) {
        if (kColumn >= columns) return;
        addColumn<kFormat, kFused, kColumn>(streams, words, hn::Set(D(), x[kColumn]));
        addColumns<kFormat, kFused, kColumn + 1>(streams, words, x, columns);
    }
}

// Sums of the block [k0, k1), whose x starts at `x`. -0 is where a sum starts: -0 + p is p, bit for bit.
template <uint32_t kFormat, bool kFused, size_t kPanels>
HWY_INLINE void sumBlock(Streams<kPanels>& streams, const float* x, uint32_t k0, uint32_t k1) {
    constexpr uint32_t kColumns = columnsOfWord(kFormat);
    VKMOE_UNROLL
    for (V& s : streams.sums) s = fromBits(0x80000000u);
    for (uint32_t k = k0; k < k1; k += kColumns) {
        VU words[Streams<kPanels>::kVectors];
        VKMOE_UNROLL
        for (size_t v = 0; v < Streams<kPanels>::kVectors; ++v) {
            const uint32_t* at = wordsOf<kFormat>(streams.panels[v / kPerPanel], k) + v % kPerPanel * kLanes;
            words[v] = hn::LoadU(DU(), at);
            if (v % kPerPanel == 0) hwy::Prefetch(at + kAhead * kPanel);
        }
        if (kColumns == 1 || k + kColumns <= k1)
            addColumns<kFormat, kFused, 0>(streams, words, x + (k - k0), kColumns);
        else
            addColumns<kFormat, kFused, 0>(streams, words, x + (k - k0), k1 - k);
    }
}

template <uint32_t kFormat, bool kFused, size_t kPanels>
HWY_INLINE void streamPanels(PanelTile& tile, size_t panel) {
    constexpr size_t kVectors = Streams<kPanels>::kVectors;
    const D d;
    Streams<kPanels> streams;
    V totals[kVectors];
    VKMOE_UNROLL
    for (size_t v = 0; v < kVectors; ++v) {
        const float* bias = tile.bias[panel + v / kPerPanel];
        streams.panels[v / kPerPanel] = tile.panels[panel + v / kPerPanel];
        totals[v] = bias ? hn::LoadU(d, bias + v % kPerPanel * kLanes) : fromBits(0x80000000u);
    }
    for (uint32_t k0 = 0; k0 < tile.cols; k0 += kBlock) {
        const float* x = tile.x.at + k0 / kBlock * tile.x.step;
        sumBlock<kFormat, kFused>(streams, x, k0, std::min(k0 + kBlock, tile.cols));
        VKMOE_UNROLL
        for (size_t v = 0; v < kVectors; ++v) {
            V s = streams.sums[v];
            if constexpr (kFormat == kMxfp4)
                s = hn::Mul(s, blockScale(streams.panels[v / kPerPanel], k0, v % kPerPanel * kLanes));
            totals[v] = hn::Add(totals[v], s);
        }
    }
    VKMOE_UNROLL
    for (size_t v = 0; v < kVectors; ++v) hn::StoreU(totals[v], d, tile.totals[0] + panel * kPanel + v * kLanes);
}

template <uint32_t kFormat, bool kFused>
HWY_NOINLINE void streamRow(PanelTile& tile) {
    size_t panel = 0;
    for (; panel + kStreams <= tile.panel_count; panel += kStreams)
        streamPanels<kFormat, kFused, kStreams>(tile, panel);
    for (; panel < tile.panel_count; ++panel) streamPanels<kFormat, kFused, 1>(tile, panel);
}

}  // namespace HWY_NAMESPACE
}  // namespace simd
}  // namespace v1
}  // namespace vkmoe
HWY_AFTER_NAMESPACE();

#endif
