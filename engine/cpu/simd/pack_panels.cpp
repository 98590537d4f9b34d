// Packing is turning blocks of 16 rows of 32-bit words round: a word holds one value, two, or eight codes. Values that
// may not be stored are looked for on the way; a block that has one is left to the scalar form, which counts.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/cpu/simd/pack_panels.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <cstring>

#include "engine/cpu/panel_packer.h"
#include "engine/cpu/simd/panel_weights-inl.h"
#include "engine/cpu/simd/vectors-inl.h"

HWY_BEFORE_NAMESPACE();
namespace vkmoe {
inline namespace v1 {
namespace simd {
namespace HWY_NAMESPACE {

constexpr uint32_t kChunk = 16;  // bytes of a row that are turned at once: four words

// Those of steps [first, first + count) that are wanted.
void packScalar(const PanelPacker& packer, const PanelSteps& wanted, uint32_t first, uint32_t count) {
    for (uint32_t step = std::max(first, wanted.begin); step < std::min(first + count, wanted.end); ++step)
        for (uint32_t lane = 0; lane < kPanel; ++lane)
            wanted.target[size_t{step - wanted.begin} * kPanel + lane] =
                packer.panelWord(wanted.panel * kPanel + lane, step);
}

#if HWY_TARGET == HWY_SCALAR  // has no vectors of four
void packSteps(const PanelPacker& packer, const PanelSteps& wanted) {
    packScalar(packer, wanted, wanted.begin, wanted.end - wanted.begin);
}
#else

using DI16 = hn::Repartition<int16_t, D>;
using VI16 = hn::Vec<DI16>;

// Where the rows of a panel are; those past the matrix's end are zeros.
class PanelRows {
public:
    PanelRows(const PackPanels& p, uint32_t panel, size_t row_bytes) : row_bytes_(row_bytes) {
        const auto* source = reinterpret_cast<const uint8_t*>(p.source.at);
        for (uint32_t i = 0; i < kPanel; ++i) {
            size_t row = size_t{panel} * kPanel + i;
            rows_[i] = row < p.rows ? source + row * p.row_step * row_bytes : nullptr;
        }
    }

    // The rows' bytes of a chunk; a copy, with zeros at its end, of what is not a whole one.
    void point(uint32_t chunk, const uint8_t* (&at)[kPanel]) {
        size_t first = size_t{chunk} * kChunk, count = std::min<size_t>(kChunk, row_bytes_ - first);
        for (uint32_t i = 0; i < kPanel; ++i) {
            if (rows_[i] && count == kChunk) {
                at[i] = rows_[i] + first;
                continue;
            }
            at[i] = copies_[i];
            std::memset(copies_[i], 0, kChunk);
            if (rows_[i]) std::memcpy(copies_[i], rows_[i] + first, count);
        }
    }

private:
    const uint8_t* rows_[kPanel];
    size_t row_bytes_;
    alignas(16) uint8_t copies_[kPanel][kChunk];
};

// Four words of each of the rows at rows[0], rows[4], ..., as many as a vector holds.
template <class DX>
HWY_INLINE hn::Vec<DX> loadBlocks(DX d, const uint8_t* const* rows) {
    if constexpr (hn::MaxLanes(DX()) == 4) {
        return hn::BitCast(d, hn::LoadU(hn::Repartition<uint8_t, DX>(), rows[0]));
    } else {
        const hn::Half<DX> half;
        return hn::Combine(d, loadBlocks(half, rows + hn::MaxLanes(half)), loadBlocks(half, rows));
    }
}

// words[j] of kLanes rows, in the order of the rows.
HWY_INLINE void turn(const uint8_t* const* rows, VU (&words)[4]) {
    const DU d;
    VKMOE_UNROLL
    for (size_t i = 0; i < 4; ++i) words[i] = loadBlocks(d, rows + i);
    transposeSquares(d, words[0], words[1], words[2], words[3]);
}

// Largest magnitudes of what was packed, of 16-bit values or of f32.
struct Seen {
    VI16 halves;
    VI floats;

    template <uint32_t kFormat>
    HWY_INLINE bool bad() const {
        if constexpr (kFormat == kF32) return outOfRange(floats);
        constexpr int16_t most = kFormat == kF16 ? 0x7bff : 0x5eff;
        return kFormat != kMxfp4 && !hn::AllFalse(DI16(), hn::Gt(halves, hn::Set(DI16(), most)));
    }
};

HWY_INLINE VI16 magnitudes(VU words) { return hn::And(hn::BitCast(DI16(), words), hn::Set(DI16(), 0x7fff)); }

// One row of source words becomes one of the panel, or two where it is widened.
template <uint32_t kFormat, bool kWiden>
HWY_INLINE void packWords(VU words, uint32_t* to, Seen& seen) {
    const DU d;
    if constexpr (kFormat == kF32) {
        V x = hn::BitCast(D(), words);
        seen.floats = largest(seen.floats, x);
        hn::StoreU(hn::BitCast(d, operandRule(x)), d, to);
    } else if constexpr (kFormat == kMxfp4) {
        hn::StoreU(words, d, to);
    } else {
        VI16 magnitude = magnitudes(words);
        seen.halves = hn::Max(seen.halves, magnitude);
        if constexpr (kWiden) {
            hn::StoreU(hn::BitCast(d, operandRule(decode<kFormat, 0>(words))), d, to);
            hn::StoreU(hn::BitCast(d, operandRule(decode<kFormat, 1>(words))), d, to + kPanel);
        } else if constexpr (kFormat == kBf16) {
            auto small = hn::Lt(magnitude, hn::Set(DI16(), 0x2380));  // 2^-56
            hn::StoreU(hn::BitCast(d, hn::IfThenZeroElse(small, hn::BitCast(DI16(), words))), d, to);
        } else {
            hn::StoreU(words, d, to);
        }
    }
}

// The low nibbles of eight bytes (two words), side by side.
HWY_INLINE VU lowNibbles(VU first, VU second) {
    const DU d;
    auto gather = [&](VU x) {
        x = hn::And(x, hn::Set(d, 0x0f0f0f0fu));
        x = hn::And(hn::Or(x, hn::ShiftRight<4>(x)), hn::Set(d, 0x00ff00ffu));
        return hn::And(hn::Or(x, hn::ShiftRight<8>(x)), hn::Set(d, 0xffffu));
    };
    return hn::Or(gather(first), hn::ShiftLeft<16>(gather(second)));
}

// A block whose bytes hold columns j and j+16.
HWY_INLINE void makeAdjacent(VU (&words)[4]) {
    VU low = lowNibbles(words[0], words[1]), low2 = lowNibbles(words[2], words[3]);
    VU high = lowNibbles(hn::ShiftRight<4>(words[0]), hn::ShiftRight<4>(words[1]));
    words[3] = lowNibbles(hn::ShiftRight<4>(words[2]), hn::ShiftRight<4>(words[3]));
    words[0] = low, words[1] = low2, words[2] = high;
}

// The chunk's rows of the panel; false: a value may not be stored, and must be counted.
template <uint32_t kFormat, bool kWiden>
HWY_INLINE bool packChunk(const uint8_t* const (&rows)[kPanel], bool halves, uint32_t* to) {
    constexpr uint32_t kStep = kWiden ? 2 * kPanel : kPanel;
    Seen seen{hn::Zero(DI16()), hn::Zero(DI())};
    for (size_t v = 0; v < kPanel; v += kLanes) {
        VU words[4];
        turn(rows + v, words);
        if constexpr (kFormat == kMxfp4)
            if (halves) makeAdjacent(words);
        VKMOE_UNROLL
        for (size_t j = 0; j < 4; ++j) packWords<kFormat, kWiden>(words[j], to + j * kStep + v, seen);
    }
    return !seen.template bad<kFormat>();
}

// Steps [first, first + count) of the panel, which a chunk gives: as many of them as are wanted.
template <uint32_t kFormat, bool kWiden>
HWY_INLINE void packPart(const PanelPacker& packer, PanelRows& rows, const PanelSteps& wanted, uint32_t chunk,
                         uint32_t first) {
    constexpr uint32_t kCount = kWiden ? 8 : 4;
    alignas(64) uint32_t words[kCount * kPanel];
    const uint8_t* at[kPanel];
    rows.point(chunk, at);
    const bool whole = first >= wanted.begin && first + kCount <= wanted.end, halves = packer.c.nibbles == kHalves;
    if (whole) {
        if (packChunk<kFormat, kWiden>(at, halves, wanted.target + size_t{first - wanted.begin} * kPanel)) return;
    } else if (packChunk<kFormat, kWiden>(at, halves, words)) {
        uint32_t begin = std::max(first, wanted.begin), end = std::min(first + kCount, wanted.end);
        std::copy(words + (begin - first) * kPanel, words + (end - first) * kPanel,
                  wanted.target + size_t{begin - wanted.begin} * kPanel);
        return;
    }
    packScalar(packer, wanted, first, kCount);
}

template <uint32_t kFormat, bool kWiden>
HWY_NOINLINE void packValues(const PanelPacker& packer, const PanelSteps& wanted) {
    constexpr uint32_t kCount = kWiden ? 8 : 4;
    PanelRows rows(packer.p, wanted.panel, size_t{packer.p.cols} * (kFormat == kF32 ? 4 : 2));
    for (uint32_t chunk = wanted.begin / kCount; chunk * kCount < wanted.end; ++chunk)
        packPart<kFormat, kWiden>(packer, rows, wanted, chunk, chunk * kCount);
}

// The scales of a group of four blocks, a word for each row. False: one is so large that values may not be stored.
bool packScales(const PackPanels& p, uint32_t panel, uint32_t group, uint32_t (&words)[kPanel]) {
    constexpr uint32_t kSafe = 187;  // 6 * 2^(186-127) is below 2^63
    const auto* scales = reinterpret_cast<const uint8_t*>(p.scales.at);
    const size_t blocks = p.cols / kBlock, first = size_t{group} * kScaleGroup;
    bool safe = true;
    for (uint32_t i = 0; i < kPanel; ++i) {
        uint8_t bytes[kScaleGroup] = {};
        size_t row = size_t{panel} * kPanel + i;
        if (row < p.rows)
            std::memcpy(bytes, scales + row * p.row_step * blocks + first,
                        std::min<size_t>(kScaleGroup, blocks - first));
        std::memcpy(&words[i], bytes, sizeof bytes);
        for (uint8_t byte : bytes) safe &= byte < kSafe;
    }
    return safe;
}

// A row of scales and up to sixteen of codes at a time.
void packCodes(const PanelPacker& packer, const PanelSteps& wanted) {
    constexpr uint32_t kGroupSteps = kScaleGroup * kBlock / 8 + 1;
    const PackPanels& p = packer.p;
    PanelRows rows(p, wanted.panel, p.cols / 2);
    for (uint32_t group = wanted.begin / kGroupSteps; group * kGroupSteps < wanted.end; ++group) {
        const uint32_t first = group * kGroupSteps;
        uint32_t scales[kPanel];
        if (!packScales(p, wanted.panel, group, scales)) {
            packScalar(packer, wanted, first, kGroupSteps);
            continue;
        }
        if (first >= wanted.begin) std::copy_n(scales, kPanel, wanted.target + size_t{first - wanted.begin} * kPanel);
        for (uint32_t i = 0, step = first + 1; i < kScaleGroup && step < wanted.end; ++i, step += 4)
            if (step + 4 > wanted.begin) packPart<kMxfp4, false>(packer, rows, wanted, group * kScaleGroup + i, step);
    }
}

void packSteps(const PanelPacker& packer, const PanelSteps& wanted) {
    const bool widen = packer.c.widen != 0;
    switch (packer.c.weight_format) {
        case kF32:
            return packValues<kF32, false>(packer, wanted);
        case kF16:
            return widen ? packValues<kF16, true>(packer, wanted) : packValues<kF16, false>(packer, wanted);
        case kBf16:
            return widen ? packValues<kBf16, true>(packer, wanted) : packValues<kBf16, false>(packer, wanted);
        default:
            return widen ? packScalar(packer, wanted, wanted.begin, wanted.end - wanted.begin)
                         : packCodes(packer, wanted);
    }
}
#endif

}  // namespace HWY_NAMESPACE
}  // namespace simd
}  // namespace v1
}  // namespace vkmoe
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace vkmoe {
inline namespace v1 {
namespace simd {

HWY_EXPORT(packSteps);

void pack_panels(const PackPanels& p, const Constants& c, Groups groups) {
    constexpr uint64_t kRows = kWorkgroup / kPanel;  // of a group: rows of 16 words
    PanelPacker packer{p, c};
    const uint64_t steps = packer.steps(), end = std::min(groups.end * kRows, ceilDiv(p.rows, kPanel) * steps);
    for (uint64_t row = groups.begin * kRows; row < end;) {
        auto panel = uint32_t(row / steps), first = uint32_t(row % steps);
        auto last = uint32_t(std::min(steps, end - panel * steps));
        HWY_DYNAMIC_DISPATCH(packSteps)(packer, {panel, first, last, p.target.at + row * kPanel});
        row = panel * steps + last;
    }
}

}  // namespace simd
}  // namespace v1
}  // namespace vkmoe
#endif
