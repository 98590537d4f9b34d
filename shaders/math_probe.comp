#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/kernel.glsl"
#include "shaders/math_probe.h"
// math_probe: result[i] = the bits of function p.function of (a[i], b[i]), for probes and exhaustive tests.
//   in   a, b [count] bits; with step > 0 instead a = b = first + i*step
//   out  result [count]
// One thread an element.
KERNEL(MathProbe)

void main() {
    uint i = thread_index();
    if (i >= p.count) return;
    uint a = p.step != 0u ? p.first + i * p.step : p.a.at[i];
    uint b = p.step != 0u ? a : p.b.at[i];
    p.result.at[i] = math_probe(p.function, a, b);
}
