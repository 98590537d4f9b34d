// What math_probe computes: one case per function of exact_math.h and per primitive rule, the same text for both
// devices.
#ifndef VKMOE_MATH_PROBE_H
#define VKMOE_MATH_PROBE_H

#include "shaders/exact_math.h"

#define kProbeAdd 0u
#define kProbeSubtract 1u
#define kProbeMultiply 2u
#define kProbeMad 3u  // a*b + b
#define kProbeDiv 4u
#define kProbeSqrt 5u
#define kProbeRsqrt 6u
#define kProbeExp 7u
#define kProbeLog 8u
#define kProbeSigmoid 9u
#define kProbeSilu 10u
#define kProbeTanh 11u
#define kProbeGelu 12u
#define kProbeF16Decode 13u
#define kProbeF16Encode 14u
#define kProbeBf16Decode 15u
#define kProbeBf16Encode 16u
#define kProbeRound 17u  // a rounded to (b mod 25) bits
#define kProbeOperand 18u
#define kProbeState 19u
#define kProbeOrderKey 20u
#define kProbeLess 21u
#define kProbeCount 22u

#ifdef __cplusplus
namespace vkmoe {
inline namespace v1 {
#endif

// The bits of function(a, b), a and b given as bits.
EXACT uint math_probe(uint function, uint abits, uint bbits) {
    float a = uintBitsToFloat(abits), b = uintBitsToFloat(bbits);
    if (function == kProbeAdd) return floatBitsToUint(a + b);
    if (function == kProbeSubtract) return floatBitsToUint(a - b);
    if (function == kProbeMultiply) return floatBitsToUint(a * b);
    if (function == kProbeMad) return floatBitsToUint(mad(a, b, b));
    if (function == kProbeDiv) return floatBitsToUint(exact_div(a, b));
    if (function == kProbeSqrt) return floatBitsToUint(exact_sqrt(a));
    if (function == kProbeRsqrt) return floatBitsToUint(exact_rsqrt(a));
    if (function == kProbeExp) return floatBitsToUint(exact_exp(a));
    if (function == kProbeLog) return floatBitsToUint(exact_log(a));
    if (function == kProbeSigmoid) return floatBitsToUint(exact_sigmoid(a));
    if (function == kProbeSilu) return floatBitsToUint(exact_silu(a));
    if (function == kProbeTanh) return floatBitsToUint(exact_tanh(a));
    if (function == kProbeGelu) return floatBitsToUint(exact_gelu(a));
    if (function == kProbeF16Decode) return floatBitsToUint(f16_decode(abits & 0xffffu));
    if (function == kProbeF16Encode) return f16_encode(a);
    if (function == kProbeBf16Decode) return floatBitsToUint(bf16_decode(abits & 0xffffu));
    if (function == kProbeBf16Encode) return bf16_encode(a);
    if (function == kProbeRound) return floatBitsToUint(round_to_bits(a, max(bbits % 25u, 2u)));
    if (function == kProbeOperand) return floatBitsToUint(operand_rule(a));
    if (function == kProbeState) return floatBitsToUint(state_rule(a));
    if (function == kProbeOrderKey) return order_key(a);
    return a < b ? 1u : 0u;
}

#ifdef __cplusplus
}  // inline namespace v1
}  // namespace vkmoe
#endif
#endif
