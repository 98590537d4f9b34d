#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/kernel.glsl"
// embed_backward: grad[ids[i], c] += sum of grad_x[positions[j], c] over j = offsets[i] .. offsets[i+1]-1.
//   in      grad_x [tokens, model_dim] state; ids [distinct], no two alike; offsets [distinct+1], at most 32,768 apart;
//           positions [tokens], ascending inside an id
//   in/out  grad [vocab, model_dim] f32 panels  (state rule)
// One thread a (distinct id, c). Order R32 over an id's positions; an id without positions keeps its gradient. Values that
// may not be stored are counted by ids[i] * model_dim + c.
KERNEL(EmbedBackward)

float block_sum(uint first, uint end, uint c) {
    float s = p.grad_x.at[p.positions.at[first] * p.model_dim + c];
    for (uint j = first + 1u; j < end; ++j) s = s + p.grad_x.at[p.positions.at[j] * p.model_dim + c];
    return s;
}

void main() {
    uint i = thread_index() / p.model_dim, c = thread_index() % p.model_dim;
    if (i >= p.distinct) return;
    uint first = p.offsets.at[i], end = p.offsets.at[i + 1u], id = p.ids.at[i];
    if (first == end) return;
    float total = block_sum(first, min(first + kBlock, end), c);
    for (uint j = first + kBlock; j < end; j += kBlock) total = total + block_sum(j, min(j + kBlock, end), c);
    uint at = (id / kPanel * p.model_dim + c) * kPanel + id % kPanel;
    float grad = checked(uintBitsToFloat(p.grad.at[at]) + total, p.status, id * p.model_dim + c);
    p.grad.at[at] = floatBitsToUint(state_rule(grad));
}
