#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/cpu/simd/activation_backward.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "engine/cpu/simd/exact_math-inl.h"
#include "engine/cpu/simd/rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace vkmoe {
inline namespace v1 {
namespace simd {
namespace HWY_NAMESPACE {

struct Slope {
    V gate, up;
};

HWY_INLINE V one() { return fromBits(0x3f800000u); }

HWY_INLINE V swishSlope(V sigmoid, V swish) { return hn::Add(sigmoid, hn::Mul(swish, hn::Sub(one(), sigmoid))); }

HWY_INLINE Slope siluSlope(V gate, V up) {
    V g = operandRule(gate), s = exactSigmoid(g), silu = hn::Mul(g, s);
    return {operandRule(hn::Mul(operandRule(swishSlope(s, silu)), operandRule(up))), operandRule(silu)};
}

HWY_INLINE Slope geluSlope(V gate, V up) {
    V x = operandRule(gate), half = fromBits(0x3f000000u), square = hn::Mul(x, x);
    V t = exactTanh(hn::Mul(mad(hn::Mul(square, x), fromBits(0x3d372713u), x), fromBits(0x3f4c422au)));
    V inner_slope = mad(square, fromBits(0x3ddb33b6u), fromBits(0x3f4c422au));
    V half_x = hn::Mul(x, half), t1 = hn::Add(t, one()), u = operandRule(up);
    V rise = mad(hn::Mul(half_x, hn::Sub(one(), hn::Mul(t, t))), inner_slope, hn::Mul(half, t1));
    Mask high = hn::Gt(x, fromBits(0x41200000u)), low = hn::Lt(x, fromBits(0xc1200000u));
    V by_gate = hn::IfThenElse(high, u, operandRule(hn::Mul(operandRule(rise), u)));
    V by_up = hn::IfThenElse(high, x, operandRule(hn::Mul(half_x, t1)));
    return {hn::IfThenZeroElse(low, by_gate), hn::IfThenZeroElse(low, by_up)};
}

HWY_INLINE Slope clampedSwigluSlope(V gate, V up, V limit, V alpha) {
    V low = hn::Xor(limit, fromBits(0x80000000u));
    Mask gate_high = hn::Gt(gate, limit), up_high = hn::Gt(up, limit), up_low = hn::Lt(up, low);
    V g = operandRule(hn::IfThenElse(gate_high, limit, gate));
    V u = hn::IfThenElse(up_high, limit, up);
    u = hn::IfThenElse(hn::Lt(u, low), low, u);
    V s = operandRule(exactSigmoid(hn::Mul(alpha, g))), swish = operandRule(hn::Mul(g, s));
    V rise = operandRule(swishSlope(s, hn::Mul(operandRule(alpha), swish)));
    V by_gate = operandRule(hn::Mul(rise, operandRule(hn::Add(u, one()))));
    return {hn::IfThenZeroElse(gate_high, by_gate), hn::IfThenZeroElse(hn::Or(up_high, up_low), swish)};
}

template <uint32_t kActivation>
HWY_INLINE Slope slopeOf(const ActivationBackward& p, V gate, V up) {
    if constexpr (kActivation == kSiluGlu) return siluSlope(gate, up);
    if constexpr (kActivation == kGeluGlu) return geluSlope(gate, up);
    if constexpr (kActivation == kClampedSwiglu)
        return clampedSwigluSlope(gate, up, hn::Set(D(), p.swiglu_limit), hn::Set(D(), p.swiglu_alpha));
    return {gate, hn::IfThenElseZero(hn::Gt(stateRule(up), hn::Zero(D())), one())};
}

template <uint32_t kActivation>
HWY_NOINLINE void activationRange(const ActivationBackward& p, uint32_t bits, uint64_t begin, uint64_t end) {
    constexpr bool kGated = kActivation != kRelu;
    for (uint64_t i = begin; i < end; i += kLanes) {
        const size_t count = end - i;
        V up = loadSome(p.up_total.at + i, count, 0.0f);
        V gate = kGated ? loadSome(p.gate_total.at + i, count, 0.0f) : up;
        Slope slope = slopeOf<kActivation>(p, gate, up);
        V grad = operandRule(loadSome(p.grad_hidden.at + i, count, 0.0f));
        storeOperands(hn::Mul(slope.up, grad), p.grad_up.at + i, count, bits, p.status, i);
        if (kGated) storeOperands(hn::Mul(slope.gate, grad), p.grad_gate.at + i, count, bits, p.status, i);
    }
}

void activationBackwardRange(const ActivationBackward& p, const Constants& c, uint64_t begin, uint64_t end) {
    if (c.activation == kRelu) return activationRange<kRelu>(p, c.operand_bits, begin, end);
    if (c.activation == kSiluGlu) return activationRange<kSiluGlu>(p, c.operand_bits, begin, end);
    if (c.activation == kGeluGlu) return activationRange<kGeluGlu>(p, c.operand_bits, begin, end);
    activationRange<kClampedSwiglu>(p, c.operand_bits, begin, end);
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

HWY_EXPORT(activationBackwardRange);

void activation_backward(const ActivationBackward& p, const Constants& c, Groups groups) {
    uint64_t end = std::min<uint64_t>(groups.end * kWorkgroup, p.count);
    HWY_DYNAMIC_DISPATCH(activationBackwardRange)(p, c, groups.begin * kWorkgroup, end);
}

}  // namespace simd
}  // namespace v1
}  // namespace vkmoe
#endif
