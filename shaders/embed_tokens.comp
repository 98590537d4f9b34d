#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/kernel.glsl"
// embed_tokens: x[t, c] = weight[ids[t], c].
//   in   ids [tokens], each a row of weight; weight [vocab, model_dim] f32 panels
//   out  x [tokens, model_dim]  (state rule)
// One thread a value.
KERNEL(EmbedTokens)

void main() {
    uint i = thread_index(), token = i / p.model_dim, c = i % p.model_dim;
    if (token >= p.tokens) return;
    uint id = p.ids.at[token];
    p.x.at[i] = state_rule(uintBitsToFloat(p.weight.at[(id / kPanel * p.model_dim + c) * kPanel + id % kPanel]));
}
