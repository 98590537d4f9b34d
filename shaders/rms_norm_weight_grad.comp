#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/kernel.glsl"
#include "shaders/language.h"
// rms_norm_weight_grad: grad[c] += sum over t of grad_y[t, c] * (x[t, c] / roots[t]).
//   in      x, grad_y [tokens, model_dim]; roots [tokens]; at most 32,768 tokens
//   in/out  grad [model_dim]  (state rule)
// One thread a column. Order R32 over the tokens; x times the inverse root and grad_y take the operand rule. Without tokens
// grad stays as it is.
KERNEL(RmsNormWeightGrad)

shared float inverse[kWorkgroup];  // of the tokens at hand, one by each lane

float block_sum(uint first, uint from, uint end, uint c) {
    uint at = (first + from) * p.model_dim + c;
    float s = rms_weight_term(p.grad_y.at[at], p.x.at[at], inverse[from]);
    for (uint i = from + 1u; i < end; ++i) {
        at += p.model_dim;
        s = s + rms_weight_term(p.grad_y.at[at], p.x.at[at], inverse[i]);
    }
    return s;
}

void main() {
    uint c = thread_index();
    float total = uintBitsToFloat(0u);
    for (uint first = 0u; first < p.tokens; first += kWorkgroup) {
        uint held = min(kWorkgroup, p.tokens - first);
        if (lane_index() < held) inverse[lane_index()] = rms_inverse(p.roots.at[first + lane_index()]);
        memoryBarrierShared();
        barrier();
        for (uint from = 0u; c < p.model_dim && from < held; from += kBlock) {
            float s = block_sum(first, from, min(from + kBlock, held), c);
            total = first + from == 0u ? s : total + s;
        }
        memoryBarrierShared();
        barrier();
    }
    if (c < p.model_dim && p.tokens != 0u) p.grad.at[c] = state_rule(checked(p.grad.at[c] + total, p.status, c));
}
