#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/kernel.glsl"
// combine: out[t, d] = sum over m of gates[t, m] * y[slot_of[t, m], d], with the shared expert before or after it.
//   in   y [slots, model_dim]; slot_of, gates [tokens, top_k]; shared_y [tokens, model_dim] unless c_shared = kSharedNone
//   out  out_ [tokens, model_dim]  (state rule)
// One thread an output. gates and y take the operand rule here, as they are loaded. Order R32 over the selection rank;
// kSharedFirst: shared + sum, kSharedLast: sum + shared.
KERNEL(Combine)

float product(uint token, uint m, uint d) {
    uint a = token * p.top_k + m;
    return operand_rule(p.gates.at[a]) * operand_rule(p.y.at[p.slot_of.at[a] * p.model_dim + d]);
}

float block_sum(uint token, uint m0, uint m1, uint d) {
    float s = product(token, m0, d);
    for (uint m = m0 + 1u; m < m1; ++m) s = s + product(token, m, d);
    return s;
}

void main() {
    uint i = thread_index(), token = i / p.model_dim, d = i % p.model_dim;
    if (token >= p.tokens) return;
    float total = block_sum(token, 0u, min(kBlock, p.top_k), d);
    for (uint m0 = kBlock; m0 < p.top_k; m0 += kBlock)
        total = total + block_sum(token, m0, min(m0 + kBlock, p.top_k), d);
    if (c_shared == kSharedFirst) total = p.shared_y.at[i] + total;
    if (c_shared == kSharedLast) total = total + p.shared_y.at[i];
    p.out_.at[i] = state_rule(checked(total, p.status, i));
}
