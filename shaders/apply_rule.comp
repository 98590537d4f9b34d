#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/kernel.glsl"
// apply_rule: makes values from a file or a caller safe to use.
//   in   source [count]  values in c_weight_format
//   out  target [count]  f32: c_operand_bits > 0: rounded to that many bits, then +0 if |x| < 2^-40 (operand rule);
//                             c_operand_bits = 0: +0 if |x| < 2^-100 (state rule)
// One thread an element. Values that are not finite, or not below 2^63, are counted by element.
KERNEL(ApplyRule)

void main() {
    uint i = thread_index();
    if (i >= p.count) return;
    float x = checked(decode_element(p.source, i, c_weight_format), p.status, i);
    p.target.at[i] = c_operand_bits != 0u ? as_operand(x, c_operand_bits) : state_rule(x);
}
