// Packed weights on vectors: one row of 16 words of a panel holds the weights of one column (f32), two (16-bit formats)
// or eight (MXFP4). Included once a target.
#if defined(VKMOE_SIMD_PANEL_WEIGHTS) == defined(HWY_TARGET_TOGGLE)
#ifdef VKMOE_SIMD_PANEL_WEIGHTS
#undef VKMOE_SIMD_PANEL_WEIGHTS
#else
#define VKMOE_SIMD_PANEL_WEIGHTS
#endif

#include "engine/cpu/panel.h"
#include "engine/cpu/simd/vectors-inl.h"

HWY_BEFORE_NAMESPACE();
namespace vkmoe {
inline namespace v1 {
namespace simd {
namespace HWY_NAMESPACE {

constexpr uint32_t columnsOfWord(uint32_t format) { return format == kF32 ? 1 : format == kMxfp4 ? 8 : 2; }

// The first word, of a panel, of the row of words that holds column k.
template <uint32_t kFormat>
HWY_INLINE uint64_t firstWord(uint32_t k) {
    return uint64_t{kFormat == kMxfp4 ? mxfp4CodeStep(k) : k / columnsOfWord(kFormat)} * kPanel;
}

// The conversion instruction, not a multiplication: a subnormal operand costs a multiplication a hundred cycles.
HWY_INLINE V decodeF16(VU half) {
    const hn::Rebind<uint16_t, D> du16;
    const hn::Rebind<hwy::float16_t, D> df16;
    return hn::PromoteTo(D(), hn::BitCast(df16, hn::TruncateTo(du16, half)));
}

constexpr bool kCodeTable = kLanes == kPanel;  // a register holds a value for each code

// Column `kColumn`'s code of each word in the lowest four bits, anything above. Where codes are looked up, by turning:
// shifts share ports of some processors with additions, turning words does not.
template <uint32_t kColumn>
HWY_INLINE VU codeOf(VU words) {
    if constexpr (kColumn == 0) return words;
    if constexpr (kCodeTable) return hn::RotateRight<4 * kColumn>(words);
    return hn::ShiftRight<4 * kColumn>(words);
}

// Value of the e2m1 code in the lowest four bits of each lane (the bits above are ignored): table[code], where the
// table is kDoubledCodes or its products with a factor.
HWY_INLINE V lookUp(V table, VU code) {
#if HWY_IS_DEBUG_BUILD  // Highway checks indices; the instruction ignores the other bits
    code = hn::And(code, hn::Set(DU(), uint32_t{kLanes} - 1));
#endif
    return hn::TableLookupLanes(table, hn::IndicesFromVec(D(), code));
}

alignas(64) constexpr float kDoubledCodes[16] = {0, 1, 2, 3, 4, 6, 8, 12, -0.0f, -1, -2, -3, -4, -6, -8, -12};

HWY_INLINE V decodeCode(VU code) {
    if constexpr (kCodeTable) return lookUp(hn::Load(D(), kDoubledCodes), code);
    const DI di;  // in integers: from 2 on, 2 or 3 is doubled for each exponent
    VI magnitude = hn::BitCast(di, hn::And(code, hn::Set(DU(), 7u)));
    VI large = hn::Add(hn::Set(di, 2), hn::And(magnitude, hn::Set(di, 1)));
    large = hn::Add(large, hn::IfThenElseZero(hn::Gt(magnitude, hn::Set(di, 3)), large));
    large = hn::Add(large, hn::IfThenElseZero(hn::Gt(magnitude, hn::Set(di, 5)), large));
    VI value = hn::IfThenElse(hn::Gt(magnitude, hn::Set(di, 1)), large, magnitude);
    V sign = hn::BitCast(D(), hn::ShiftLeft<31>(hn::ShiftRight<3>(code)));
    return hn::Or(hn::ConvertTo(D(), value), sign);
}

constexpr uint32_t kCodes = columnsOfWord(kMxfp4);
constexpr bool kByteTables = kLanes == 8;  // where looking up lanes is dearer than looking up bytes

#if HWY_TARGET == HWY_SCALAR
void decodeCodes(VU words, V (&values)[kCodes]);  // kByteTables is false: never called
#else
// The doubled values of eight codes of each word, the upper and the lower byte of their sixteen highest bits from a
// table each.
HWY_INLINE void decodeCodes(VU words, V (&values)[kCodes]) {
    const DU du;
    const hn::Repartition<uint8_t, DU> bytes;
    alignas(16) constexpr uint8_t kUpper[16] = {0x00, 0x3f, 0x40, 0x40, 0x40, 0x40, 0x41, 0x41,
                                                0x80, 0xbf, 0xc0, 0xc0, 0xc0, 0xc0, 0xc1, 0xc1};
    alignas(16) constexpr uint8_t kLower[16] = {0x00, 0x80, 0x00, 0x40, 0x80, 0xc0, 0x00, 0x40,
                                                0x00, 0x80, 0x00, 0x40, 0x80, 0xc0, 0x00, 0x40};
    const auto upper_table = hn::LoadDup128(bytes, kUpper), lower_table = hn::LoadDup128(bytes, kLower);
    const VU nibbles = hn::Set(du, 0x0f0f0f0fu), high = hn::Set(du, 0xffff0000u);
    VKMOE_UNROLL
    for (uint32_t odd = 0; odd < 2; ++odd) {  // codes 0, 2, 4, 6, then the others: one a byte
        const auto codes = hn::BitCast(bytes, hn::And(odd ? hn::ShiftRight<4>(words) : words, nibbles));
        const VU upper = hn::BitCast(du, hn::TableLookupBytes(upper_table, codes));
        const VU lower = hn::BitCast(du, hn::TableLookupBytes(lower_table, codes));
        auto merged = [&](VU u, VU l) HWY_ATTR {
            return hn::BitCast(du, hn::OddEven(hn::BitCast(bytes, u), hn::BitCast(bytes, l)));
        };
        const VU first = merged(hn::ShiftLeft<8>(upper), lower), second = merged(upper, hn::ShiftRight<8>(lower));
        values[odd] = hn::BitCast(D(), hn::ShiftLeft<16>(first));
        values[odd + 2] = hn::BitCast(D(), hn::ShiftLeft<16>(second));
        values[odd + 4] = hn::BitCast(D(), hn::And(first, high));
        values[odd + 6] = hn::BitCast(D(), hn::And(second, high));
    }
}
#endif

// Column `kColumn` of a row of words.
template <uint32_t kFormat, uint32_t kColumn>
HWY_INLINE V decode(VU words) {
    if constexpr (kFormat == kF32) return hn::BitCast(D(), words);
    if constexpr (kFormat == kF16) return decodeF16(kColumn == 0 ? words : hn::ShiftRight<16>(words));
    if constexpr (kFormat == kBf16)
        return hn::BitCast(D(), kColumn == 0 ? hn::ShiftLeft<16>(words) : hn::And(words, hn::Set(DU(), 0xffff0000u)));
    if constexpr (kFormat == kMxfp4) return decodeCode(codeOf<kColumn>(words));
}

// The same where the row lies in memory: halves are converted as they are loaded, both columns of a lane, then sorted.
template <uint32_t kFormat, uint32_t kColumn>
HWY_INLINE V decodeRow([[maybe_unused]] const uint32_t* row, VU words) {
#if HWY_TARGET != HWY_SCALAR
    if constexpr (kFormat == kF16 && kLanes == kPanel) {
        const hn::Rebind<hwy::float16_t, D> df16;
        const auto* halves = reinterpret_cast<const hwy::float16_t*>(row);
        V low = hn::PromoteTo(D(), hn::LoadU(df16, halves)),
          high = hn::PromoteTo(D(), hn::LoadU(df16, halves + kLanes));
        return kColumn == 0 ? hn::ConcatEven(D(), high, low) : hn::ConcatOdd(D(), high, low);
    }
#endif
    return decode<kFormat, kColumn>(words);
}

constexpr uint32_t kGroupColumns = kScaleGroup * kBlock;  // whose scales share a row of words

// The halved scales of column k's group: a byte for each of its blocks, the first one's lowest. 0 is zero, 255 NaN.
HWY_INLINE VU groupScales(const uint32_t* panel, uint32_t k, size_t lane) {
    const VU scales = hn::LoadU(DU(), panel + uint64_t{mxfp4ScaleStep(k)} * kPanel + lane);
#if HWY_TARGET == HWY_SCALAR
    uint32_t halves = 0;
    for (uint32_t shift = 0; shift < 32; shift += 8) {
        uint32_t s = hn::GetLane(scales) >> shift & 255;
        halves |= (s == 255 ? s : s > 66 ? s - 1 : 0) << shift;
    }
    return hn::Set(DU(), halves);
#else
    const hn::Repartition<uint8_t, DU> bytes;
    const auto s = hn::BitCast(bytes, scales), nan = hn::Set(bytes, uint8_t{255});
    const auto halves = hn::IfThenElse(hn::Eq(s, nan), s, hn::Sub(s, hn::Set(bytes, uint8_t{1})));
    return hn::BitCast(DU(), hn::IfThenElseZero(hn::Gt(s, hn::Set(bytes, uint8_t{66})), halves));
#endif
}

// What the totals of a block are multiplied by, its halved scale lowest in the words: mxfp4_half_scale.
HWY_INLINE V blockScale(VU halves) {
    const VU infinity = hn::Set(DU(), 0x7f800000u), bits = hn::And(hn::ShiftLeft<23>(halves), infinity);
    return hn::BitCast(D(), hn::IfThenElse(hn::Eq(bits, infinity), hn::Set(DU(), 0x7fc00000u), bits));
}

}  // namespace HWY_NAMESPACE
}  // namespace simd
}  // namespace v1
}  // namespace vkmoe
HWY_AFTER_NAMESPACE();

#endif
