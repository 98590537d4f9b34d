#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/kernel.glsl"
// count_tokens: adds an expert's tokens to the counts of the micro-batch.
//   in      offsets [experts+1]
//   in/out  counts [experts] += offsets[e+1] - offsets[e]
// One thread an expert.
KERNEL(CountTokens)

void main() {
    uint e = thread_index();
    if (e >= p.experts) return;
    p.counts.at[e] += p.offsets.at[e + 1u] - p.offsets.at[e];
}
