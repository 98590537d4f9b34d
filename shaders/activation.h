// Activations of an expert, one text for GLSL and C++: from the totals of gate and up to a hidden value.
//
// Operands of every product follow the operand rule, so no product is subnormal. Sources: relu and silu_glu as in the
// papers; gelu_glu with the tanh form of GELU; clamped_swiglu as GPT-OSS has it:
// gate <= limit, up in [-limit, limit], h = gate * sigmoid(alpha*gate) * (up + 1).
#ifndef VKMOE_ACTIVATION_H
#define VKMOE_ACTIVATION_H

#include "shaders/constants.h"
#include "shaders/exact_math.h"

#ifdef __cplusplus
namespace vkmoe {
inline namespace v1 {
#endif

EXACT float clamped_swiglu(float gate, float up, float limit, float alpha) {
    float g = operand_rule(gate > limit ? limit : gate);
    float u = up > limit ? limit : up;
    u = u < -limit ? -limit : u;
    float swish = operand_rule(g * operand_rule(exact_sigmoid(alpha * g)));
    return swish * operand_rule(u + uintBitsToFloat(0x3f800000u));
}

EXACT float activate(float gate, float up, uint activation, float limit, float alpha) {
    if (activation == kRelu) return up > uintBitsToFloat(0u) ? up : uintBitsToFloat(0u);
    if (activation == kClampedSwiglu) return clamped_swiglu(gate, up, limit, alpha);
    float g = activation == kGeluGlu ? exact_gelu(gate) : exact_silu(gate);
    return operand_rule(g) * operand_rule(up);
}

// ---- derivatives ----------------------------------------------------------------------------------------------------

// Derivatives of a hidden value by the totals of gate and up, operands. At the edges of a clamp they are those of
// inside.
struct ActivationSlope {
    float gate, up;
};

// sigmoid * (1 + x * (1 - sigmoid)), where swish = x * sigmoid
EXACT float swish_slope(float sigmoid, float swish) {
    return sigmoid + swish * (uintBitsToFloat(0x3f800000u) - sigmoid);
}

EXACT ActivationSlope silu_slope(float gate, float up) {
    float g = operand_rule(gate);
    float s = exact_sigmoid(g);
    float silu = g * s;
    ActivationSlope slope;
    slope.gate = operand_rule(operand_rule(swish_slope(s, silu)) * operand_rule(up));
    slope.up = operand_rule(silu);
    return slope;
}

// One tanh serves both: t = tanh(u(x)) with u as in exact_gelu, gelu' = (1 + t)/2 + x/2 * (1 - t^2) * u'(x).
EXACT ActivationSlope gelu_slope(float gate, float up) {
    float one = uintBitsToFloat(0x3f800000u), half_ = uintBitsToFloat(0x3f000000u);
    float x = operand_rule(gate);
    ActivationSlope slope;
    if (x > uintBitsToFloat(0x41200000u) || x < uintBitsToFloat(0xc1200000u)) {  // beyond 10: x or 0
        slope.gate = x < uintBitsToFloat(0xc1200000u) ? uintBitsToFloat(0u) : operand_rule(up);
        slope.up = x < uintBitsToFloat(0xc1200000u) ? uintBitsToFloat(0u) : x;
        return slope;
    }
    float square = x * x;
    float t = exact_tanh(mad(square * x, uintBitsToFloat(0x3d372713u), x) * uintBitsToFloat(0x3f4c422au));
    float inner_slope = mad(square, uintBitsToFloat(0x3ddb33b6u), uintBitsToFloat(0x3f4c422au));
    float half_x = x * half_, t1 = t + one;
    float rise = mad(half_x * (one - t * t), inner_slope, half_ * t1);
    slope.gate = operand_rule(operand_rule(rise) * operand_rule(up));
    slope.up = operand_rule(half_x * t1);
    return slope;
}

EXACT ActivationSlope clamped_swiglu_slope(float gate, float up, float limit, float alpha) {
    float g = operand_rule(gate > limit ? limit : gate);
    float u = up > limit ? limit : up;
    u = u < -limit ? -limit : u;
    float s = operand_rule(exact_sigmoid(alpha * g));
    float swish = operand_rule(g * s);
    float rise = operand_rule(swish_slope(s, operand_rule(alpha) * swish));
    ActivationSlope slope;
    slope.gate = operand_rule(rise * operand_rule(u + uintBitsToFloat(0x3f800000u)));
    slope.up = swish;
    if (gate > limit) slope.gate = uintBitsToFloat(0u);
    if (up > limit || up < -limit) slope.up = uintBitsToFloat(0u);
    return slope;
}

EXACT ActivationSlope activation_slope(float gate, float up, uint activation, float limit, float alpha) {
    if (activation == kSiluGlu) return silu_slope(gate, up);
    if (activation == kGeluGlu) return gelu_slope(gate, up);
    if (activation == kClampedSwiglu) return clamped_swiglu_slope(gate, up, limit, alpha);
    ActivationSlope relu;
    relu.gate = uintBitsToFloat(0u);
    relu.up = uintBitsToFloat(state_rule(up) > uintBitsToFloat(0u) ? 0x3f800000u : 0u);
    return relu;
}

#ifdef __cplusplus
}  // inline namespace v1
}  // namespace vkmoe
#endif
#endif
