#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/kernel.glsl"
// shared_gate: gates[t] = sigmoid(sum_k x[t, k] * weight[k]), what a sigmoid-gated shared expert's output is multiplied by.
//   in   x [tokens, model_dim] operands; weight [model_dim] operands
//   out  gates [tokens]  (state rule)
// One workgroup a token, one thread a block of 32 terms at a time; order R32. f32 in both precisions, as the router is.
// Source: Qwen3.5's shared_expert_gate.
KERNEL(SharedGate)

shared float block_total[kWorkgroup];

float block_dot(uint row, uint k0) {
    float s = p.x.at[row + k0] * p.weight.at[k0];
    for (uint k = k0 + 1u; k < min(k0 + kBlock, p.model_dim); ++k) s = s + p.x.at[row + k] * p.weight.at[k];
    return s;
}

void main() {
    uint token = group_index(), blocks = (p.model_dim + kBlock - 1u) / kBlock;
    if (token >= p.tokens) return;  // the whole workgroup
    float total = uintBitsToFloat(0u);
    for (uint first = 0u; first < blocks; first += kWorkgroup) {
        uint block = first + lane_index();
        if (block < blocks) block_total[lane_index()] = block_dot(token * p.model_dim, block * kBlock);
        memoryBarrierShared();
        barrier();
        for (uint i = 0u; lane_index() == 0u && i < min(kWorkgroup, blocks - first); ++i)
            total = first + i == 0u ? block_total[0] : total + block_total[i];
        memoryBarrierShared();
        barrier();
    }
    if (lane_index() == 0u) p.gates.at[token] = state_rule(exact_sigmoid(checked(total, p.status, token)));
}
