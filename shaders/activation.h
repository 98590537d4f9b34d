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

#ifdef __cplusplus
}  // inline namespace v1
}  // namespace vkmoe
#endif
#endif
