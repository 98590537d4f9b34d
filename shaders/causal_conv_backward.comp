#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/kernel.glsl"
// causal_conv_backward: grad_n[t, c] = sum over j = 0 .. min(width-1, remaining[t]) of weight[c, j] * grad_u[t + j, c].
//   in   grad_u [tokens, model_dim]; weight [model_dim, width]; remaining [tokens], tokens after t in its sequence
//   out  grad_n [tokens, model_dim]  (state rule)
// One thread a value. Order R32 over j. Both operands take the operand rule here, as they are loaded.
KERNEL(CausalConvBackward)

float product(uint j, uint at, uint c) {
    return operand_rule(p.weight.at[c * p.width + j]) * operand_rule(p.grad_u.at[at + j * p.model_dim]);
}

float block_sum(uint first, uint end, uint at, uint c) {
    float s = product(first, at, c);
    for (uint j = first + 1u; j < end; ++j) s = s + product(j, at, c);
    return s;
}

void main() {
    uint i = thread_index(), token = i / p.model_dim, c = i % p.model_dim;
    if (token >= p.tokens) return;
    if (p.width == 0u) {  // a sum of nothing
        p.grad_n.at[i] = uintBitsToFloat(0u);
        return;
    }
    uint taps = min(p.width, p.remaining.at[token] + 1u);
    float total = block_sum(0u, min(kBlock, taps), i, c);
    for (uint j = kBlock; j < taps; j += kBlock) total = total + block_sum(j, min(j + kBlock, taps), i, c);
    p.grad_n.at[i] = state_rule(checked(total, p.status, i));
}
