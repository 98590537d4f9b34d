#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/kernel.glsl"
// count_tokens: adds an expert's tokens to the counts of the micro-batch.
//   in      offsets [experts+1]
//   in/out  counts [experts] += offsets[e+1] - offsets[e], at most 2^32-1: what was counted never becomes zero again
// One thread an expert.
KERNEL(CountTokens)

void main() {
    uint e = thread_index();
    if (e >= p.experts) return;
    uint before = p.counts.at[e], sum = before + p.offsets.at[e + 1u] - p.offsets.at[e];
    p.counts.at[e] = sum < before ? 0xffffffffu : sum;
}
