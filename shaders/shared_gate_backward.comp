#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/kernel.glsl"
// shared_gate_backward: the gradient of a shared expert's gate vector.
//   in      grad_shared_logits [tokens]; x [tokens, model_dim] operands
//   in/out  grad [model_dim] += sum over tokens of grad_shared_logits[t] * x[t, i]  (state rule)
// One thread a column. grad_shared_logits takes the operand rule here. Order R32 over the tokens, at most 30,000.
KERNEL(SharedGateBackward)

float term(uint token, uint i) {
    return operand_rule(p.grad_shared_logits.at[token]) * p.x.at[token * p.model_dim + i];
}

float block_sum(uint first, uint last, uint i) {
    float s = term(first, i);
    for (uint token = first + 1u; token < last; ++token) s = s + term(token, i);
    return s;
}

void main() {
    uint i = thread_index();
    if (i >= p.model_dim || p.tokens == 0u) return;
    float total = block_sum(0u, min(kBlock, p.tokens), i);
    for (uint first = kBlock; first < p.tokens; first += kBlock)
        total = total + block_sum(first, min(first + kBlock, p.tokens), i);
    p.grad.at[i] = state_rule(checked(p.grad.at[i] + total, p.status, i));
}
