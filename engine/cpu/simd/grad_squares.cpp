#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/cpu/simd/grad_squares.cpp"
#include <hwy/cache_control.h>
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

constexpr uint64_t kGroupWords = 65536, kBlockWords = uint64_t{kBlock} * kWorkgroup;
constexpr size_t kStreams = kLanes == 16 ? 4 : 1;  // groups at a time, as the registers allow: see peak_read
constexpr size_t kAhead = 1024;                    // words: the processor's own prefetching stops at pages

using Totals = float[kWorkgroup];

// Adds the squares of up to 32 rows of 64 gradients of each of kGroups groups to their totals; false if a square may be
// out of range: then a sum is. The squares of what pads the last row are +0: added to a sum of squares they change no
// bit.
template <size_t kGroups>
HWY_INLINE bool addBlock(const float* grads, size_t count, V scale, Totals* totals) {
    const D d;
    V sums[kGroups][kVectors];
    for (auto& group : sums)
        for (auto& sum : group) sum = hn::Zero(d);
    size_t at = 0;
    for (; at + kWorkgroup <= count; at += kWorkgroup) {
        VKMOE_UNROLL
        for (size_t i = 0; i < kGroups * kVectors; ++i) {
            const float* from = grads + i / kVectors * kGroupWords + at + i % kVectors * kLanes;
            hwy::Prefetch(from + kAhead);
            V& sum = sums[i / kVectors][i % kVectors];
            sum = hn::Add(sum, squareOf(hn::LoadU(d, from), scale));
        }
    }
    for (size_t v = 0; v < kVectors && at < count; ++v, at += kLanes)  // of one group
        sums[0][v] = hn::Add(sums[0][v], squareOf(loadSome(grads + at, count - at, 0.0f), scale));
    VI seen = hn::Zero(DI());
    for (size_t g = 0; g < kGroups; ++g)
        for (size_t v = 0; v < kVectors; ++v) {
            seen = largest(seen, sums[g][v]);
            float* total = totals[g] + v * kLanes;
            hn::Store(hn::Add(hn::Load(d, total), sums[g][v]), d, total);
        }
    return !outOfRange(seen);
}

void flagSquares(const GradSquares& p, uint64_t begin, uint64_t end) {
    for (uint64_t i = begin; i < end; ++i) {
        float g = operand_rule(p.grads.at[i] * p.scale);
        checked(g * g, p.status, uint32_t(i));
    }
}

// Groups [group, group + kGroups); more than one only if all are whole.
template <size_t kGroups>
HWY_INLINE void squareStreams(const GradSquares& p, uint64_t group) {
    alignas(64) Totals totals[kGroups] = {};
    const V scale = hn::Set(D(), p.scale);
    const uint64_t stop = std::min<uint64_t>(p.count, (group + 1) * kGroupWords);
    for (uint64_t at = group * kGroupWords; at < stop; at += kBlockWords) {
        uint64_t count = std::min(stop - at, kBlockWords);
        if (addBlock<kGroups>(p.grads.at + at, count, scale, totals)) continue;
        for (size_t g = 0; g < kGroups; ++g) flagSquares(p, at + g * kGroupWords, at + g * kGroupWords + count);
    }
    std::copy_n(totals[0], kGroups * kWorkgroup, p.squares.at + group * kWorkgroup);
}

void squareGroups(const GradSquares& p, uint64_t group, uint64_t end) {
    const uint64_t whole = std::min(end, p.count / kGroupWords);
    for (; group + kStreams <= whole; group += kStreams) squareStreams<kStreams>(p, group);
    for (; group < end; ++group) squareStreams<1>(p, group);
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
