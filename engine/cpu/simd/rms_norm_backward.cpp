#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/cpu/simd/rms_norm_backward.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "engine/cpu/simd/rows-inl.h"
#include "shaders/language.h"

HWY_BEFORE_NAMESPACE();
namespace vkmoe {
inline namespace v1 {
namespace simd {
namespace HWY_NAMESPACE {

// The gradient of x / root, and its products with x, which are summed.
struct Gradients {
    const float *weight, *grad_y, *x;

    HWY_INLINE V gradient(uint32_t c, size_t count) const {
        return stateRule(hn::Mul(loadSome(weight + c, count, 0.0f), loadSome(grad_y + c, count, 0.0f)));
    }
    HWY_INLINE V strided(uint32_t first, uint32_t step, size_t count) const {
        V g = hn::Mul(loadStrided(weight + first, step, count), loadStrided(grad_y + first, step, count));
        return hn::Mul(operandRule(g), operandRule(loadStrided(x + first, step, count)));
    }
    float at(uint32_t i) const { return rms_slope_term(rms_gradient(weight[i], grad_y[i]), x[i]); }
};

void backwardRange(const RmsNormBackward& p, uint64_t begin, uint64_t end) {
    for (uint64_t token = begin; token < end; ++token) {
        const uint32_t row = uint32_t(token) * p.model_dim;
        Gradients gradients{p.weight.at, p.grad_y.at + row, p.x.at + row};
        float one_over = rms_inverse(p.roots.at[token]);
        const V inverse = hn::Set(D(), one_over);
        const V slope = hn::Set(D(), rms_slope(rowSum(gradients, p.model_dim), p.model_dim, one_over));
        for (uint32_t c = 0; c < p.model_dim; c += kLanes) {
            size_t count = p.model_dim - c;
            V direct = stateRule(hn::Mul(gradients.gradient(c, count), inverse));
            V own = hn::Sub(direct, stateRule(hn::Mul(loadSome(gradients.x + c, count, 0.0f), slope)));
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
