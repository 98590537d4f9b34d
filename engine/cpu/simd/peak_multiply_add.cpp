// Lanes are threads; the sixteen chains of a thread are sixteen vectors, enough to hide the latency of multiply, then
// add.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/cpu/simd/peak_multiply_add.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "engine/cpu/simd/unroll.h"
#include "engine/cpu/twin.h"

HWY_BEFORE_NAMESPACE();
namespace vkmoe {
inline namespace v1 {
namespace simd {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <bool kFused>
HWY_INLINE void runVector(const PeakMultiplyAdd& p, uint32_t first) {
    const hn::CappedTag<float, kWorkgroup> d;
    const hn::RebindToUnsigned<decltype(d)> du;
    using V = hn::Vec<decltype(d)>;
    V w = hn::BitCast(d, hn::Add(hn::Set(du, 0x3f000000u), hn::And(hn::Iota(du, first), hn::Set(du, 0xffffu))));
    V x = hn::Set(d, 1.0f);
    // Every chain starts from a place the compiler cannot know: equal chains must not become one.
    HWY_ALIGN float start[4 * hn::MaxLanes(d)];
    hn::Store(x, d, start);
    hn::Store(w, d, start + hn::Lanes(d));
    hn::Store(hn::Add(x, w), d, start + 2 * hn::Lanes(d));
    hn::Store(hn::Add(x, hn::Add(x, w)), d, start + 3 * hn::Lanes(d));
    const volatile size_t unknown = 0;
    V s[16];
    VKMOE_UNROLL
    for (size_t j = 0; j < 16; ++j) s[j] = hn::Load(d, start + j % 4 * hn::Lanes(d) + unknown);
    for (uint32_t n = 0; n < p.iterations; ++n) {
        VKMOE_UNROLL
        for (size_t j = 0; j < 16; ++j) s[j] = kFused ? hn::MulAdd(s[j], w, x) : hn::Add(x, hn::Mul(s[j], w));
    }
    V left = hn::Add(hn::Add(s[0], s[1]), hn::Add(s[2], s[3]));
    V right = hn::Add(hn::Add(s[4], s[9]), hn::Add(s[14], s[15]));
    V rest = s[5];  // keeps the other chains alive without changing the sum
    for (size_t j : {6, 7, 8, 10, 11, 12, 13}) rest = hn::Max(rest, s[j]);
    V sum = hn::IfThenElse(hn::Lt(rest, hn::Zero(d)), rest, hn::Add(left, right));
    hn::StoreU(sum, d, p.result.at + first);
}

void runGroups(const PeakMultiplyAdd& p, bool fused, uint32_t first, uint32_t end) {
    const hn::CappedTag<float, kWorkgroup> d;
    for (uint32_t i = first; i < end; i += uint32_t(hn::Lanes(d)))
        fused ? runVector<true>(p, i) : runVector<false>(p, i);
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

HWY_EXPORT(runGroups);

// `threads` is a multiple of the workgroup's size.
void peak_multiply_add(const PeakMultiplyAdd& p, const Constants& c, Groups groups) {
    uint64_t end = std::min<uint64_t>(groups.end * kWorkgroup, p.threads);
    HWY_DYNAMIC_DISPATCH(runGroups)(p, c.fused != 0, uint32_t(groups.begin * kWorkgroup), uint32_t(end));
}

}  // namespace simd
}  // namespace v1
}  // namespace vkmoe
#endif
