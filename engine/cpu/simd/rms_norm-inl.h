// language.h's formulas of RMSNorm on vectors, with the same bits. Included once a target.
//
// Quotients and roots are the vector's own, which IEEE rounds correctly; a subnormal counts as zero, as in
// exact_math.h. (A sum of squares of operands is zero or no smaller than 2^-80: neither its mean nor its root is
// subnormal.)
#if defined(VKMOE_SIMD_RMS_NORM) == defined(HWY_TARGET_TOGGLE)
#ifdef VKMOE_SIMD_RMS_NORM
#undef VKMOE_SIMD_RMS_NORM
#else
#define VKMOE_SIMD_RMS_NORM
#endif

#include "engine/cpu/simd/rows-inl.h"
#include "shaders/language.h"

HWY_BEFORE_NAMESPACE();
namespace vkmoe {
inline namespace v1 {
namespace simd {
namespace HWY_NAMESPACE {

HWY_INLINE V canonical(V x) { return hn::IfThenElse(isNan(x), canonicalNan(), x); }

HWY_INLINE V rmsRoot(V squares, uint32_t dim, float epsilon) {
    const V mean = hn::Div(squares, hn::Set(D(), float(dim)));
    return canonical(hn::Sqrt(hn::Add(mean, hn::Set(D(), state_rule(epsilon)))));
}

HWY_INLINE V rmsInverse(V root) { return canonical(normalOrZero(hn::Div(fromBits(0x3f800000u), normalOrZero(root)))); }

HWY_INLINE V rmsSlope(V slope, uint32_t dim, V inverse) {
    const V mean = canonical(normalOrZero(hn::Div(stateRule(hn::Mul(slope, inverse)), hn::Set(D(), float(dim)))));
    return stateRule(hn::Mul(stateRule(hn::Mul(mean, inverse)), inverse));
}

}  // namespace HWY_NAMESPACE
}  // namespace simd
}  // namespace v1
}  // namespace vkmoe
HWY_AFTER_NAMESPACE();

#endif
