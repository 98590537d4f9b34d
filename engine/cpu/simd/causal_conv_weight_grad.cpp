#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/cpu/simd/causal_conv_weight_grad.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "engine/cpu/simd/rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace vkmoe {
inline namespace v1 {
namespace simd {
namespace HWY_NAMESPACE {

// grad_u * n, of the tokens whose sequence has a row `back` before them.
struct TapTerms {
    const CausalConvWeightGrad& p;
    uint32_t back;

    bool present(uint32_t t) const { return p.positions.at[t] >= back; }
    bool block(uint32_t t0, uint32_t t1) const {
        return std::any_of(p.positions.at + t0, p.positions.at + t1, [&](uint32_t at) { return at >= back; });
    }
    HWY_INLINE V at(uint32_t t, uint32_t c, size_t count) const {
        V grad = operandRule(loadSome(p.grad_u.at + uint64_t{t} * p.model_dim + c, count, 0.0f));
        return hn::Mul(grad, loadSome(p.n.at + uint64_t{t - back} * p.model_dim + c, count, 0.0f));
    }
};

// Columns [first, last) of tap `back`.
HWY_INLINE void tapGradient(const CausalConvWeightGrad& p, uint32_t back, uint32_t first, uint32_t last) {
    HWY_ALIGN float totals[kColumnChunk];
    TapTerms terms{p, back};
    for (uint32_t c0 = first; c0 < last; c0 += kColumnChunk) {
        uint32_t count = std::min(kColumnChunk, last - c0);
        if (!columnSums(terms, p.tokens, c0, count, totals)) return;
        for (uint32_t c = 0; c < count; ++c) {
            uint32_t at = (c0 + c) * p.width + back;
            p.grad.at[at] = state_rule(checked(p.grad.at[at] + totals[c], p.status, at));
        }
    }
}

void tapRange(const CausalConvWeightGrad& p, uint64_t begin, uint64_t end) {
    eachStretch(begin, end, p.model_dim,
                [&](uint32_t back, uint32_t first, uint32_t last) HWY_ATTR { tapGradient(p, back, first, last); });
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

HWY_EXPORT(tapRange);

void causal_conv_weight_grad(const CausalConvWeightGrad& p, const Constants&, Groups groups) {
    uint64_t end = std::min<uint64_t>(groups.end * kWorkgroup, uint64_t{p.model_dim} * p.width);
    HWY_DYNAMIC_DISPATCH(tapRange)(p, groups.begin * kWorkgroup, end);
}

}  // namespace simd
}  // namespace v1
}  // namespace vkmoe
#endif
