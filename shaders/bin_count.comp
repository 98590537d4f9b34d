#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/kernel.glsl"
// bin_count: step 1 of the stable counting sort of assignments by expert.
//   in   selected [assignments]; one that is no expert is not counted
//   out  counts [chunks, experts], zeroed by the caller: how many of each chunk of 256 assignments go to each expert
// One thread an assignment. Integer atomics only: the result does not depend on their order.
KERNEL(BinTokens)

void main() {
    uint a = thread_index();
    if (a >= p.assignments) return;
    uint expert = p.selected.at[a];
    if (expert < p.experts) atomicAdd(p.counts.at[a / kBinChunk * p.experts + expert], 1u);
}
