#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/kernel.glsl"
// dispatch_backward: the gradient of a layer's input, (shared + sum over m of grad_x[slot_of[t, m], i]) + router.
//   in   grad_x [slots, model_dim]; slot_of [tokens, top_k]; grad_router_x [tokens, model_dim]
//        grad_shared_x [tokens, model_dim] unless c_shared = kSharedNone (first or last makes no difference)
//        grad_shared_logits [tokens], shared_router [model_dim] operands if c_shared_gate: their product is added to
//        grad_shared_x
//   out  grad_in [tokens, model_dim]  (state rule)
// One thread an output. grad_x and grad_shared_logits take the operand rule here. Order R32 over the selection rank, in
// which absent slots are skipped; a sum of nothing is +0.
KERNEL(DispatchBackward)

float routed_sum(uint token, uint i) {
    float total = uintBitsToFloat(0u);
    bool any = false;
    for (uint m0 = 0u; m0 < p.top_k; m0 += kBlock) {
        float s = uintBitsToFloat(0u);
        bool any_here = false;
        for (uint m = m0; m < min(m0 + kBlock, p.top_k); ++m) {
            uint slot = p.slot_of.at[token * p.top_k + m];
            if (slot == kAbsent) continue;
            float x = operand_rule(p.grad_x.at[slot * p.model_dim + i]);
            s = any_here ? s + x : x;
            any_here = true;
        }
        if (any_here) total = any ? total + s : s;
        any = any || any_here;
    }
    return total;
}

void main() {
    uint at = thread_index(), token = at / p.model_dim, i = at % p.model_dim;
    if (token >= p.tokens) return;
    float total = routed_sum(token, i);
    if (c_shared != kSharedNone) {
        float s = p.grad_shared_x.at[at];
        if (c_shared_gate != 0u) s = s + operand_rule(p.grad_shared_logits.at[token]) * p.shared_router.at[i];
        total = s + total;
    }
    p.grad_in.at[at] = state_rule(checked(total + p.grad_router_x.at[at], p.status, at));
}
