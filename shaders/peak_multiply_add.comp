#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/kernel.glsl"
#include "shaders/panel.glsl"
// peak_multiply_add: how fast this device multiplies and adds f32 with nothing in the way (kPeakChains chains a thread, in three vec4).
//   out  result [threads]  the sum of the thread's chains, in ascending order
// Chain j: s = x + s*w, `iterations` times, from (16+j)/16: no two are alike, or a compiler would make them one. Separately
// rounded, or fused with c_fused. 24 operations an iteration.
KERNEL(PeakMultiplyAdd)

float component_sum(float total, vec4 v) { return (((total + v.x) + v.y) + v.z) + v.w; }

void main() {
    uint i = thread_index();
    if (i >= p.threads) return;
    vec4 w = vec4(uintBitsToFloat(0x3f000000u + (i & 0xffffu)));  // a little over one half
    vec4 x = vec4(uintBitsToFloat(0x3f800000u));
    uvec4 first = uvec4(0x3f800000u, 0x3f880000u, 0x3f900000u, 0x3f980000u);
    vec4 a = uintBitsToFloat(first), b = uintBitsToFloat(first + uvec4(0x200000u));
    vec4 c = uintBitsToFloat(first + uvec4(0x400000u));
    for (uint n = 0u; n < p.iterations; ++n) {
        a = multiply_add(a, w, x);
        b = multiply_add(b, w, x);
        c = multiply_add(c, w, x);
    }
    float total = ((a.x + a.y) + a.z) + a.w;
    p.result.at[i] = component_sum(component_sum(total, b), c);
}
