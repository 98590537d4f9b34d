#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/cpu/simd/rms_norm.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "engine/cpu/simd/rows-inl.h"
#include "shaders/language.h"

HWY_BEFORE_NAMESPACE();
namespace vkmoe {
inline namespace v1 {
namespace simd {
namespace HWY_NAMESPACE {

// What is squared and summed.
struct Squares {
    const float* x;

    HWY_INLINE V strided(uint32_t first, uint32_t step, size_t count) const {
        V v = operandRule(loadStrided(x + first, step, count));
        return hn::Mul(v, v);
    }
    float at(uint32_t i) const { return rms_square(x[i]); }
};

void normRange(const RmsNorm& p, uint64_t begin, uint64_t end) {
    for (uint64_t token = begin; token < end; ++token) {
        const uint32_t row = uint32_t(token) * p.model_dim;
        float root = rms_root(rowSum(Squares{p.x.at + row}, p.model_dim), p.model_dim, p.epsilon);
        p.roots.at[token] = state_rule(checked(root, p.status, row));
        const V inverse = hn::Set(D(), rms_inverse(root));
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
