#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/kernel.glsl"
// peak_read: how fast this device reads memory with nothing in the way.
//   in   source [groups, steps, 64]
//   out  result [groups, 64]  exclusive or over the steps
// One thread a result; a workgroup reads one contiguous stretch.
KERNEL(PeakRead)

void main() {
    uint i = thread_index();
    if (i >= p.threads) return;
    uint at = group_index() * p.steps * kWorkgroup + lane_index(), bits = 0u;
    for (uint k = 0u; k < p.steps; ++k) bits ^= p.source.at[at + k * kWorkgroup];
    p.result.at[i] = bits;
}
