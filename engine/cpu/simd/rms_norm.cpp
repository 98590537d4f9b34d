#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/cpu/simd/rms_norm.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "engine/cpu/simd/rms_norm-inl.h"

HWY_BEFORE_NAMESPACE();
namespace vkmoe {
inline namespace v1 {
namespace simd {
namespace HWY_NAMESPACE {

// What is squared and summed.
struct Squares {
    const float* x;
    uint32_t dim;

    HWY_INLINE V at(uint32_t row, uint32_t column, size_t count) const {
        V v = operandRule(loadSome(x + uint64_t{row} * dim + column, count, 0.0f));
        return hn::Mul(v, v);
    }
};

// Of at most kRowsAtOnce tokens from `token` on: what their rows are divided by, stored, and its inverses.
HWY_INLINE void findRoots(const RmsNorm& p, uint32_t token, uint32_t tokens, float* inverses) {
    HWY_ALIGN float squares[kRowsAtOnce] = {}, roots[kRowsAtOnce];
    rowSums(Squares{p.x.at + uint64_t{token} * p.model_dim, p.model_dim}, tokens, p.model_dim, squares);
    for (uint32_t i = 0; i < tokens; i += kLanes) {
        V root = rmsRoot(hn::Load(D(), squares + i), p.model_dim, p.epsilon);
        hn::Store(root, D(), roots + i);
        hn::Store(rmsInverse(root), D(), inverses + i);
    }
    for (uint32_t i = 0; i < tokens; ++i)
        p.roots.at[token + i] = state_rule(checked(roots[i], p.status, (token + i) * p.model_dim));
}

void normRange(const RmsNorm& p, uint64_t begin, uint64_t end) {
    HWY_ALIGN float inverses[kRowsAtOnce];
    for (uint64_t token = begin; token < end; ++token) {
        const uint32_t nth = uint32_t(token - begin) % kRowsAtOnce, row = uint32_t(token) * p.model_dim;
        if (nth == 0) findRoots(p, uint32_t(token), uint32_t(std::min<uint64_t>(end - token, kRowsAtOnce)), inverses);
        const V inverse = hn::Set(D(), inverses[nth]);
        for (uint32_t c = 0; c < p.model_dim; c += kLanes) {
            size_t count = p.model_dim - c;
            V weight = operandRule(loadSome(p.weight.at + c, count, 0.0f));
            V y = hn::Mul(hn::Mul(weight, operandRule(loadSome(p.x.at + row + c, count, 0.0f))), inverse);
            storeSome(operandRule(y), p.y.at + row + c, count);
            checkSome(y, count, p.status, row + c);
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

HWY_EXPORT(normRange);

// One workgroup a token.
void rms_norm(const RmsNorm& p, const Constants&, Groups groups) {
    HWY_DYNAMIC_DISPATCH(normRange)(p, groups.begin, std::min<uint64_t>(groups.end, p.tokens));
}

}  // namespace simd
}  // namespace v1
}  // namespace vkmoe
#endif
