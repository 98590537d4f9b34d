#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/cpu/simd/grad_squares.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "engine/cpu/simd/vectors-inl.h"
#include "engine/cpu/twin.h"

HWY_BEFORE_NAMESPACE();
namespace vkmoe {
inline namespace v1 {
namespace simd {
namespace HWY_NAMESPACE {

constexpr size_t kVectors = kWorkgroup / kLanes;

HWY_INLINE V squareOf(V g, V scale) {
    g = operandRule(hn::Mul(g, scale));
    return hn::Mul(g, g);
}

// Adds the squares of up to 32 rows of 64 gradients to the totals; false if one of the squares is out of range. The
// squares of what pads the last row are +0: added to a sum of squares they change no bit.
bool addBlock(const float* grads, size_t count, V scale, float* totals) {
    const DI di;
    const D d;
    V sums[kVectors];
    VI seen = hn::Zero(di);
    for (auto& sum : sums) sum = hn::Zero(d);
    size_t at = 0;
    for (; at + kWorkgroup <= count; at += kWorkgroup) {
        VKMOE_UNROLL
        for (size_t v = 0; v < kVectors; ++v) {
            V square = squareOf(hn::LoadU(d, grads + at + v * kLanes), scale);
            seen = largest(seen, square);
            sums[v] = hn::Add(sums[v], square);
        }
    }
    for (size_t v = 0; v < kVectors && at < count; ++v, at += kLanes) {
        V square = squareOf(loadSome(grads + at, count - at, 0.0f), scale);
        seen = largest(seen, square);
        sums[v] = hn::Add(sums[v], square);
    }
    VKMOE_UNROLL
    for (size_t v = 0; v < kVectors; ++v)
        hn::Store(hn::Add(hn::Load(d, totals + v * kLanes), sums[v]), d, totals + v * kLanes);
    return !outOfRange(seen);
}

void squareGroups(const GradSquares& p, uint64_t begin, uint64_t end) {
    const V scale = hn::Set(D(), p.scale);
    constexpr uint64_t kBlockWords = uint64_t{kBlock} * kWorkgroup;
    for (uint64_t group = begin; group < end; ++group) {
        alignas(64) float totals[kWorkgroup] = {};
        uint64_t stop = std::min<uint64_t>(p.count, (group + 1) * 65536);
        for (uint64_t at = group * 65536; at < stop; at += kBlockWords) {
            uint64_t count = std::min(stop - at, kBlockWords);
            if (addBlock(p.grads.at + at, count, scale, totals)) continue;
            for (uint64_t i = at; i < at + count; ++i) {
                float g = operand_rule(p.grads.at[i] * p.scale);
                checked(g * g, p.status, uint32_t(i));
            }
        }
        std::copy_n(totals, kWorkgroup, p.squares.at + group * kWorkgroup);
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

HWY_EXPORT(squareGroups);

void grad_squares(const GradSquares& p, const Constants&, Groups groups) {
    HWY_DYNAMIC_DISPATCH(squareGroups)(p, groups.begin, std::min<uint64_t>(groups.end, ceilDiv(p.count, 65536)));
}

}  // namespace simd
}  // namespace v1
}  // namespace vkmoe
#endif
