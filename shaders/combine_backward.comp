#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/kernel.glsl"
// combine_backward: what a layer's output gradient means for the experts' outputs.
//   in   grad_out [tokens, model_dim]; slot_of, gates [tokens, top_k]; shared_gates [tokens] if c_shared_gate
//   out  grad_y [slots, model_dim] = gates[t, m] * grad_out[t, d] in slot_of[t, m]; absent slots are skipped
//        grad_shared_y [tokens, model_dim] = shared_gates[t] * grad_out[t, d], or grad_out itself without c_shared_gate,
//        unless c_shared is kSharedNone (first or last makes no difference)
// Outputs are operands of c_operand_bits. One thread a (token, d), whose index the status counts.
KERNEL(CombineBackward)

void main() {
    uint i = thread_index(), token = i / p.model_dim, d = i % p.model_dim;
    if (token >= p.tokens) return;
    float g = p.grad_out.at[i];
    float operand = operand_rule(g);
    for (uint m = 0u; m < p.top_k; ++m) {
        uint a = token * p.top_k + m, slot = p.slot_of.at[a];
        if (slot == kAbsent) continue;
        float x = checked(operand_rule(p.gates.at[a]) * operand, p.status, i);
        p.grad_y.at[slot * p.model_dim + d] = as_operand(x, c_operand_bits);
    }
    if (c_shared == kSharedNone) return;
    if (c_shared_gate != 0u) g = operand_rule(p.shared_gates.at[token]) * operand;
    p.grad_shared_y.at[i] = as_operand(checked(g, p.status, i), c_operand_bits);
}
