// exact_math.h and activation.h on vectors, with the same bits: the same operations in the same order; what the scalar
// text decides by branches is decided by selection here.
//
// Division is the vector's own: IEEE divides correctly rounded, and no operand or quotient here is subnormal.
#if defined(VKMOE_SIMD_EXACT_MATH) == defined(HWY_TARGET_TOGGLE)
#ifdef VKMOE_SIMD_EXACT_MATH
#undef VKMOE_SIMD_EXACT_MATH
#else
#define VKMOE_SIMD_EXACT_MATH
#endif

#include "engine/cpu/simd/vectors-inl.h"

HWY_BEFORE_NAMESPACE();
namespace vkmoe {
inline namespace v1 {
namespace simd {
namespace HWY_NAMESPACE {

// Every x that is not NaN.
HWY_INLINE V exactExp(V x) {
    const D d;
    const DI di;
    V shifter = fromBits(0x4b400000u);
    V t = mad(x, fromBits(0x3fb8aa3bu), shifter);
    VI n = hn::Sub(hn::BitCast(di, t), hn::Set(di, 0x4b400000));
    V nf = hn::Sub(t, shifter);
    V r = mad(nf, fromBits(0xbf318000u), x);
    r = mad(nf, fromBits(0x395e8083u), r);
    V p = fromBits(0x3ab5118bu);
    p = mad(p, r, fromBits(0x3c091d47u));
    p = mad(p, r, fromBits(0x3d2aac7bu));
    p = mad(p, r, fromBits(0x3e2aaa48u));
    p = mad(p, r, fromBits(0x3efffffeu));
    p = hn::Add(mad(p, hn::Mul(r, r), r), fromBits(0x3f800000u));
    V y = hn::BitCast(d, hn::Add(hn::BitCast(di, p), hn::ShiftLeft<23>(n)));
    y = hn::IfThenElse(hn::Gt(x, fromBits(0x42b17217u)), fromBits(0x7f800000u), y);
    return hn::IfThenZeroElse(hn::Lt(x, fromBits(0xc2ae0000u)), y);
}

HWY_INLINE V exactSigmoid(V x) {
    V one = fromBits(0x3f800000u);
    V e = exactExp(hn::Or(x, fromBits(0x80000000u)));
    V quotient = hn::Div(one, hn::Add(one, e));
    V y = hn::IfThenElse(hn::MaskFromVec(hn::BitCast(D(), hn::BroadcastSignBit(hn::BitCast(DI(), x)))),
                         hn::Mul(e, quotient), quotient);
    return hn::IfThenElse(isNan(x), canonicalNan(), y);
}

HWY_INLINE V exactSilu(V x) {
    V y = normalOrZero(hn::Mul(x, exactSigmoid(x)));
    y = hn::IfThenZeroElse(below(x, 0x01000000), y);
    V special = hn::IfThenElse(isNan(x), canonicalNan(), hn::ZeroIfNegative(x));  // an infinity
    return hn::IfThenElse(below(x, 0x7f800000), y, special);
}

// Every x that is not NaN.
HWY_INLINE V exactTanh(V x) {
    V one = fromBits(0x3f800000u), sign = hn::And(x, fromBits(0x80000000u)), a = hn::Abs(x);
    V z = hn::Mul(x, x);
    V p = fromBits(0xbbc7c6f2u);
    p = mad(p, z, fromBits(0x3cac0247u));
    p = mad(p, z, fromBits(0xbd5c92c5u));
    p = mad(p, z, fromBits(0x3e08870eu));
    p = mad(p, z, fromBits(0xbeaaaaa9u));
    V odd = mad(hn::Mul(p, z), x, x);
    V t = hn::Sub(one, hn::Div(fromBits(0x40000000u), hn::Add(exactExp(hn::Add(a, a)), one)));
    t = hn::Or(hn::IfThenElse(hn::Lt(a, fromBits(0x411051ecu)), t, one), sign);
    V y = hn::IfThenElse(hn::Lt(a, fromBits(0x3f200000u)), odd, t);
    V tiny = hn::IfThenElse(below(x, 0x00800000), sign, x);
    return hn::IfThenElse(below(x, 0x2b800000), tiny, y);
}

HWY_INLINE V exactGelu(V x) {
    V inner = hn::Mul(mad(hn::Mul(hn::Mul(x, x), x), fromBits(0x3d372713u), x), fromBits(0x3f4c422au));
    V half = hn::Mul(x, fromBits(0x3f000000u));
    V y = normalOrZero(hn::Mul(half, hn::Add(exactTanh(inner), fromBits(0x3f800000u))));
    y = hn::IfThenZeroElse(below(x, 0x01000000), y);
    y = hn::IfThenElse(hn::Gt(x, fromBits(0x41200000u)), x, y);
    y = hn::IfThenZeroElse(hn::Lt(x, fromBits(0xc1200000u)), y);
    return hn::IfThenElse(isNan(x), canonicalNan(), y);
}

HWY_INLINE V clampedSwiglu(V gate, V up, V limit, V alpha) {
    V g = operandRule(hn::IfThenElse(hn::Gt(gate, limit), limit, gate));
    V u = hn::IfThenElse(hn::Gt(up, limit), limit, up);
    V low = hn::Xor(limit, fromBits(0x80000000u));
    u = hn::IfThenElse(hn::Lt(u, low), low, u);
    V swish = operandRule(hn::Mul(g, operandRule(exactSigmoid(hn::Mul(alpha, g)))));
    return hn::Mul(swish, operandRule(hn::Add(u, fromBits(0x3f800000u))));
}

template <uint32_t kActivation>
HWY_INLINE V activation(V gate, V up, V limit, V alpha) {
    if constexpr (kActivation == kRelu) return hn::IfThenElseZero(hn::Gt(up, hn::Zero(D())), up);
    if constexpr (kActivation == kSiluGlu) return hn::Mul(operandRule(exactSilu(gate)), operandRule(up));
    if constexpr (kActivation == kGeluGlu) return hn::Mul(operandRule(exactGelu(gate)), operandRule(up));
    return clampedSwiglu(gate, up, limit, alpha);
}

}  // namespace HWY_NAMESPACE
}  // namespace simd
}  // namespace v1
}  // namespace vkmoe
HWY_AFTER_NAMESPACE();

#endif
