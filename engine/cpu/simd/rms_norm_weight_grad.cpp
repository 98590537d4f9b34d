#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/cpu/simd/rms_norm_weight_grad.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "engine/cpu/simd/rms_norm-inl.h"

HWY_BEFORE_NAMESPACE();
namespace vkmoe {
inline namespace v1 {
namespace simd {
namespace HWY_NAMESPACE {

// grad_y * (x / root) of a block of tokens.
struct NormTerms {
    const RmsNormWeightGrad& p;
    uint32_t first = 0;
    HWY_ALIGN float inverse[kBlock] = {};

    bool block(uint32_t t0, uint32_t t1) {
        first = t0;
        for (uint32_t t = t0; t < t1; t += kLanes)
            hn::Store(rmsInverse(loadSome(p.roots.at + t, t1 - t, 1.0f)), D(), inverse + (t - t0));
        return true;
    }
    bool present(uint32_t) const { return true; }
    HWY_INLINE V at(uint32_t t, uint32_t c, size_t count) const {
        uint64_t from = uint64_t{t} * p.model_dim + c;
        V x = hn::Mul(loadSome(p.x.at + from, count, 0.0f), hn::Set(D(), inverse[t - first]));
        return hn::Mul(operandRule(loadSome(p.grad_y.at + from, count, 0.0f)), operandRule(x));
    }
};

void columnRange(const RmsNormWeightGrad& p, uint64_t begin, uint64_t end) {
    HWY_ALIGN float totals[kColumnChunk];
    NormTerms terms{p};
    for (uint64_t first = begin; first < end; first += kColumnChunk) {
        uint32_t count = uint32_t(std::min<uint64_t>(kColumnChunk, end - first));
        if (!columnSums(terms, p.tokens, uint32_t(first), count, totals)) return;
        for (uint32_t c = 0; c < count; c += kLanes) {
            V grad = hn::Add(loadSome(p.grad.at + first + c, count - c, 0.0f), hn::Load(D(), totals + c));
            storeState(grad, p.grad.at, uint32_t(first) + c, count - c, p.status);
        }
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

HWY_EXPORT(columnRange);

void rms_norm_weight_grad(const RmsNormWeightGrad& p, const Constants&, Groups groups) {
    uint64_t end = std::min<uint64_t>(groups.end * kWorkgroup, p.model_dim);
    HWY_DYNAMIC_DISPATCH(columnRange)(p, groups.begin * kWorkgroup, end);
}

}  // namespace simd
}  // namespace v1
}  // namespace vkmoe
#endif
