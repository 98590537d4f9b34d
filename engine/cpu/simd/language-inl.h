// language.h's formulas of RMSNorm on vectors, with the same bits. Included once a target.
//
// Quotients and roots are the vector's own, which IEEE rounds correctly; a sum of squares of operands is no smaller
// than 2^-80 unless it is zero, so that neither is subnormal.
#if defined(VKMOE_SIMD_LANGUAGE) == defined(HWY_TARGET_TOGGLE)
#ifdef VKMOE_SIMD_LANGUAGE
#undef VKMOE_SIMD_LANGUAGE
#else
#define VKMOE_SIMD_LANGUAGE
#endif

#include "engine/cpu/simd/rows-inl.h"
#include "shaders/language.h"

HWY_BEFORE_NAMESPACE();
namespace vkmoe {
inline namespace v1 {
namespace simd {
namespace HWY_NAMESPACE {

HWY_INLINE V canonical(V x) { return hn::IfThenElse(isNan(x), fromBits(0x7fc00000u), x); }

HWY_INLINE V rmsRoot(V squares, uint32_t dim, float epsilon) {
    const V mean = hn::Div(squares, hn::Set(D(), float(dim)));
    return canonical(hn::Sqrt(hn::Add(mean, hn::Set(D(), state_rule(epsilon)))));
}

HWY_INLINE V rmsInverse(V root) { return canonical(hn::Div(fromBits(0x3f800000u), root)); }

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
