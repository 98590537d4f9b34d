#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/cpu/simd/rms_norm_backward.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "engine/cpu/simd/rms_norm-inl.h"

HWY_BEFORE_NAMESPACE();
namespace vkmoe {
inline namespace v1 {
namespace simd {
namespace HWY_NAMESPACE {

// Products of x and the gradient of x / root, which are summed.
struct SlopeTerms {
    const RmsNormBackward& p;
    uint32_t first;  // row

    HWY_INLINE uint64_t index(uint32_t row, uint32_t column) const {
        return uint64_t{first + row} * p.model_dim + column;
    }
    // Before its rule.
    HWY_INLINE V gradient(uint32_t row, uint32_t column, size_t count) const {
        return hn::Mul(loadSome(p.weight.at + column, count, 0.0f),
                       loadSome(p.grad_y.at + index(row, column), count, 0.0f));
    }
    HWY_INLINE V at(uint32_t row, uint32_t column, size_t count) const {
        V x = loadSome(p.x.at + index(row, column), count, 0.0f);
        return hn::Mul(operandRule(gradient(row, column, count)), operandRule(x));
    }
};

// Of at most kRowsAtOnce tokens from `token` on: the inverses of their roots, and what each row loses of itself.
HWY_INLINE void findSlopes(const RmsNormBackward& p, uint32_t token, uint32_t tokens, float* inverses, float* slopes) {
    HWY_ALIGN float sums[kRowsAtOnce] = {};
    rowSums(SlopeTerms{p, token}, tokens, p.model_dim, sums);
    for (uint32_t i = 0; i < tokens; i += kLanes) {
        V inverse = rmsInverse(loadSome(p.roots.at + token + i, tokens - i, 1.0f));
        hn::Store(inverse, D(), inverses + i);
        hn::Store(rmsSlope(hn::Load(D(), sums + i), p.model_dim, inverse), D(), slopes + i);
    }
}

void backwardRange(const RmsNormBackward& p, uint64_t begin, uint64_t end) {
    HWY_ALIGN float inverses[kRowsAtOnce], slopes[kRowsAtOnce];
    for (uint64_t token = begin; token < end; ++token) {
        const uint32_t nth = uint32_t(token - begin) % kRowsAtOnce, row = uint32_t(token) * p.model_dim;
        if (nth == 0)
            findSlopes(p, uint32_t(token), uint32_t(std::min<uint64_t>(end - token, kRowsAtOnce)), inverses, slopes);
        const V inverse = hn::Set(D(), inverses[nth]), slope = hn::Set(D(), slopes[nth]);
        for (uint32_t c = 0; c < p.model_dim; c += kLanes) {
            size_t count = p.model_dim - c;
            V gradient = SlopeTerms{p, uint32_t(token)}.gradient(0, c, count);
            V direct = stateRule(hn::Mul(stateRule(gradient), inverse));
            V own = hn::Sub(direct, stateRule(hn::Mul(loadSome(p.x.at + row + c, count, 0.0f), slope)));
            V grad = hn::Add(loadSome(p.residual.at + row + c, count, 0.0f), own);
            storeState(grad, p.grad_x.at, row + c, count, p.status);
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

HWY_EXPORT(backwardRange);

// One workgroup a token.
void rms_norm_backward(const RmsNormBackward& p, const Constants&, Groups groups) {
    HWY_DYNAMIC_DISPATCH(backwardRange)(p, groups.begin, std::min<uint64_t>(groups.end, p.tokens));
}

}  // namespace simd
}  // namespace v1
}  // namespace vkmoe
#endif
