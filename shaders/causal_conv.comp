#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/kernel.glsl"
// causal_conv: u[t, c] = x[t, c] + sum over j = 0 .. min(width-1, positions[t]) of weight[c, j] * n[history + t - j, c].
//   in   x [tokens, model_dim] state; n [history + tokens, model_dim] operands; weight [model_dim, width];
//        positions [tokens], at most history + t
//   out  u [tokens, model_dim]  (state rule)
// One thread a value. Order R32 over j. The weight takes the operand rule here, as it is loaded.
KERNEL(CausalConv)

float block_sum(uint first, uint end, uint at, uint c) {
    float s = operand_rule(p.weight.at[c * p.width + first]) * p.n.at[at - first * p.model_dim];
    for (uint j = first + 1u; j < end; ++j)
        s = s + operand_rule(p.weight.at[c * p.width + j]) * p.n.at[at - j * p.model_dim];
    return s;
}

void main() {
    uint i = thread_index(), token = i / p.model_dim, c = i % p.model_dim;
    if (token >= p.tokens) return;
    if (p.width == 0u) {  // a sum of nothing
        p.u.at[i] = state_rule(checked(p.x.at[i], p.status, i));
        return;
    }
    uint taps = min(p.width, p.positions.at[token] + 1u), at = i + p.history * p.model_dim;
    float total = block_sum(0u, min(kBlock, taps), at, c);
    for (uint j = kBlock; j < taps; j += kBlock) total = total + block_sum(j, min(j + kBlock, taps), at, c);
    p.u.at[i] = state_rule(checked(p.x.at[i] + total, p.status, i));
}
