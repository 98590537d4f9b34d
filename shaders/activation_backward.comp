#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/kernel.glsl"
#include "shaders/activation.h"
// activation_backward: from the gradient of hidden values to those of the totals of gate and up.
//   in   gate_total [count] unless relu; up_total [count]; grad_hidden [count]
//   out  grad_gate [count] unless relu; grad_up [count]; operands of c_operand_bits
// One thread an element. The formulas are those of activation.h.
KERNEL(ActivationBackward)

void main() {
    uint i = thread_index();
    if (i >= p.count) return;
    float up = p.up_total.at[i], gate = up;
    if (c_activation != kRelu) gate = p.gate_total.at[i];
    ActivationSlope slope = activation_slope(gate, up, c_activation, p.swiglu_limit, p.swiglu_alpha);
    float grad = operand_rule(p.grad_hidden.at[i]);
    p.grad_up.at[i] = as_operand(checked(slope.up * grad, p.status, i), c_operand_bits);
    if (c_activation != kRelu) p.grad_gate.at[i] = as_operand(checked(slope.gate * grad, p.status, i), c_operand_bits);
}
