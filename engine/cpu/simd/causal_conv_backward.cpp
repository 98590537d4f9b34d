#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/cpu/simd/causal_conv_backward.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "engine/cpu/simd/taps-inl.h"

HWY_BEFORE_NAMESPACE();
namespace vkmoe {
inline namespace v1 {
namespace simd {
namespace HWY_NAMESPACE {

// Outputs [first, last) of one token.
HWY_INLINE void correlate(const CausalConvBackward& p, const Taps& taps, uint32_t token, uint32_t first,
                          uint32_t last) {
    const uint32_t width = std::min(p.width, p.remaining.at[token] + 1), row = token * p.model_dim;
    for (uint32_t c = first; c < last; c += kLanes) {
        size_t count = last - c;
        const float* grad_u = p.grad_u.at + row + c;
        V total = minusZero();
        for (uint32_t j0 = 0; j0 < width; j0 += kBlock) {
            V s = minusZero();
            for (uint32_t j = j0; j < std::min(j0 + kBlock, width); ++j) {
                V weight = taps.at(j, c);
                V grad = operandRule(loadSome(grad_u + uint64_t{j} * p.model_dim, count, 0.0f));
                s = hn::Add(s, hn::Mul(weight, grad));
            }
            total = hn::Add(total, s);
        }
        storeState(total, p.grad_n.at, row + c, count, p.status);
    }
}

void backwardRange(const CausalConvBackward& p, uint64_t begin, uint64_t end) {
    eachStretchWithTaps(begin, end, p.weight.at, p.model_dim, p.width, p.remaining.at,
                        [&](const Taps& taps, uint32_t token, uint32_t first, uint32_t last)
                            HWY_ATTR { correlate(p, taps, token, first, last); });
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

HWY_EXPORT(backwardRange);

void causal_conv_backward(const CausalConvBackward& p, const Constants&, Groups groups) {
    uint64_t end = std::min<uint64_t>(groups.end * kWorkgroup, uint64_t{p.tokens} * p.model_dim);
    HWY_DYNAMIC_DISPATCH(backwardRange)(p, groups.begin * kWorkgroup, end);
}

}  // namespace simd
}  // namespace v1
}  // namespace vkmoe
#endif
