#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/kernel.glsl"
// bin_tokens: step 3 of the stable counting sort: every assignment takes its slot, an expert's tokens in ascending order.
//   in   selected [assignments]; counts [chunks, experts] first slots
//   out  token_of [slots]; slot_of [assignments], kAbsent for one that is no expert
// One thread an assignment; its rank within its chunk is the number of earlier assignments to the same expert.
KERNEL(BinTokens)

void main() {
    uint a = thread_index();
    if (a >= p.assignments) return;
    uint chunk = a / kBinChunk, expert = p.selected.at[a];
    if (expert >= p.experts) {
        p.slot_of.at[a] = kAbsent;
        return;
    }
    uint slot = p.counts.at[chunk * p.experts + expert];
    for (uint other = chunk * kBinChunk; other < a; ++other) slot += p.selected.at[other] == expert ? 1u : 0u;
    p.token_of.at[slot] = a / p.top_k;
    p.slot_of.at[a] = slot;
}
