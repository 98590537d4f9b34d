#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/kernel.glsl"
// combine: out[t, d] = sum over m of gates[t, m] * y[slot_of[t, m], d], with the shared expert before or after it.
//   in   y [slots, model_dim]; slot_of, gates [tokens, top_k]; shared_y [tokens, model_dim] unless c_shared = kSharedNone,
//        multiplied by shared_gates [tokens] if c_shared_gate
//   out  out_ [tokens, model_dim]  (state rule)
// One thread an output. gates and y take the operand rule here, as they are loaded. Order R32 over the selection rank, in
// which absent slots are skipped; a sum of nothing is +0. kSharedFirst: shared + sum, kSharedLast: sum + shared.
KERNEL(Combine)

float routed_sum(uint token, uint d) {
    float total = uintBitsToFloat(0u);
    bool any = false;
    for (uint m0 = 0u; m0 < p.top_k; m0 += kBlock) {
        float s = uintBitsToFloat(0u);
        bool any_here = false;
        for (uint m = m0; m < min(m0 + kBlock, p.top_k); ++m) {
            uint a = token * p.top_k + m, slot = p.slot_of.at[a];
            if (slot == kAbsent) continue;
            float product = operand_rule(p.gates.at[a]) * operand_rule(p.y.at[slot * p.model_dim + d]);
            s = any_here ? s + product : product;
            any_here = true;
        }
        if (any_here) total = any ? total + s : s;
        any = any || any_here;
    }
    return total;
}

void main() {
    uint i = thread_index(), token = i / p.model_dim, d = i % p.model_dim;
    if (token >= p.tokens) return;
    float total = routed_sum(token, d);
    if (c_shared != kSharedNone) {
        float y = p.shared_y.at[i];
        if (c_shared_gate != 0u) y = operand_rule(p.shared_gates.at[token]) * operand_rule(y);
        total = c_shared == kSharedFirst ? y + total : total + y;
    }
    p.out_.at[i] = state_rule(checked(total, p.status, i));
}
