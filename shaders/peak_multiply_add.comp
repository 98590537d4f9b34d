#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/kernel.glsl"
#include "shaders/panel.glsl"
// peak_multiply_add: how fast this device multiplies and adds f32 with nothing in the way (16 chains a thread).
//   out  result [threads]  the sum of the thread's chains
// Chain j: s = x + s*w, `iterations` times; separately rounded, or fused with c_fused. 32 operations an iteration.
KERNEL(PeakMultiplyAdd)

void main() {
    uint i = thread_index();
    if (i >= p.threads) return;
    vec4 w = vec4(uintBitsToFloat(0x3f000000u + (i & 0xffffu)));  // a little over one half
    vec4 x = vec4(uintBitsToFloat(0x3f800000u));
    vec4 a = x, b = w, c = x + w, d = x + c;
    for (uint n = 0u; n < p.iterations; ++n) {
        a = multiply_add(a, w, x);
        b = multiply_add(b, w, x);
        c = multiply_add(c, w, x);
        d = multiply_add(d, w, x);
    }
    p.result.at[i] = ((a.x + b.x) + (c.x + d.x)) + ((a.y + b.z) + (c.w + d.w));
}
