// Lanes are threads; the chains of a thread are as many vectors, enough to hide the latency of multiply, then add.
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
    // Every chain starts from a place the compiler cannot know: chains must not become one, nor constants.
    const volatile uint32_t step = 0x80000u;
    V s[kPeakChains];
    VKMOE_UNROLL
    for (size_t j = 0; j < kPeakChains; ++j) s[j] = hn::BitCast(d, hn::Set(du, 0x3f800000u + uint32_t(j) * step));
    for (uint32_t n = 0; n < p.iterations; ++n) {
        VKMOE_UNROLL
        for (size_t j = 0; j < kPeakChains; ++j) s[j] = kFused ? hn::MulAdd(s[j], w, x) : hn::Add(x, hn::Mul(s[j], w));
    }
    V sum = s[0];
    for (size_t j = 1; j < kPeakChains; ++j) sum = hn::Add(sum, s[j]);
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
