#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/kernel.glsl"
#include "shaders/float16.h"
// scale_gradients: grads = through16(grads * before) * after, each product rounded, then the state rule.
//   in   grads [count]
//   out  grads [count]; with c_weight_format = kF16 through16 truncates to float16, and what is 2^16 or more becomes
//        infinity: whoever uses the gradients checks them. Otherwise through16 is nothing.
// One thread an element. Source: the reference engine's mixed precision.
KERNEL(ScaleGradients)

void main() {
    uint i = thread_index();
    if (i >= p.count) return;
    float g = state_rule(p.grads.at[i] * p.before);
    if (c_weight_format == kF16) g = through_float16(g);
    p.grads.at[i] = state_rule(g * p.after);
}
