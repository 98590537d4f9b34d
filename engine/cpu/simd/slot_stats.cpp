#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/cpu/simd/slot_stats.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "engine/cpu/simd/vectors-inl.h"
#include "engine/cpu/twin.h"

HWY_BEFORE_NAMESPACE();
namespace vkmoe {
inline namespace v1 {
namespace simd {
namespace HWY_NAMESPACE {

// The biased exponent of the largest |y|.
HWY_INLINE uint32_t largestExponent(const float* y, uint32_t count) {
    const DI di;
    VI seen = hn::Zero(di);
    for (uint32_t d = 0; d < count; d += kLanes) seen = largest(seen, loadSome(y + d, count - d, 0.0f));
    return uint32_t(hn::GetLane(hn::MaxOfLanes(di, seen))) >> 23;
}

// Values below 0.01.
HWY_INLINE uint32_t countQuiet(const float* hidden, uint32_t count) {
    size_t quiet = 0;
    for (uint32_t j = 0; j < count; j += kLanes)
        quiet += hn::CountTrue(D(), below(loadSome(hidden + j, count - j, 1.0f), 0x3c23d70a));
    return uint32_t(quiet);
}

// Totals of `count` whole blocks from y on, lanes across blocks.
HWY_INLINE void blockEnergies(const float* y, size_t count, V scale, float* totals) {
    const DI di;
    VI block = hn::Min(hn::Iota(di, 0), hn::Set(di, int32_t(count) - 1)), index = hn::ShiftLeft<5>(block);
    static_assert(kBlock == 1 << 5);
    V s = fromBits(0x80000000u);  // -0 + v is v, bit for bit
    for (uint32_t k = 0; k < kBlock; ++k) {
        V v = operandRule(hn::Mul(hn::GatherIndex(D(), y + k, index), scale));
        s = hn::Add(s, hn::Mul(v, v));
    }
    storeSome(s, totals, count);
}

HWY_INLINE float energyOf(const float* y, uint32_t count, float scale) {
    HWY_ALIGN float totals[kLanes];
    float total = -0.0f;
    const uint32_t whole = count / kBlock;
    for (uint32_t first = 0; first < whole; first += kLanes) {
        uint32_t blocks = std::min(whole - first, uint32_t{kLanes});
        blockEnergies(y + first * kBlock, blocks, hn::Set(D(), scale), totals);
        for (uint32_t i = 0; i < blocks; ++i) total = total + totals[i];
    }
    float rest = -0.0f;
    for (uint32_t d = whole * kBlock; d < count; ++d) {
        float v = operand_rule(y[d] * scale);
        rest = rest + v * v;
    }
    return total + rest;
}

void slotRange(const SlotStats& p, uint64_t begin, uint64_t end) {
    for (uint64_t slot = begin; slot < end; ++slot) {
        const float* y = p.y.at + slot * p.model_dim;
        uint32_t exponent = largestExponent(y, p.model_dim);
        p.energy.at[slot] = state_rule(energyOf(y, p.model_dim, uintBitsToFloat((254 - exponent) << 23)));
        p.scale.at[slot] = exponent;
        p.quiet.at[slot] = countQuiet(p.hidden.at + slot * p.hidden_dim, p.hidden_dim);
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

HWY_EXPORT(slotRange);

void slot_stats(const SlotStats& p, const Constants&, Groups groups) {
    uint64_t end = std::min<uint64_t>(groups.end * kWorkgroup, p.slots);
    HWY_DYNAMIC_DISPATCH(slotRange)(p, groups.begin * kWorkgroup, end);
}

}  // namespace simd
}  // namespace v1
}  // namespace vkmoe
#endif
