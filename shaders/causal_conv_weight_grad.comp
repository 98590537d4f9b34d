#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/kernel.glsl"
// causal_conv_weight_grad: grad[c, j] += sum over t with positions[t] >= j of grad_u[t, c] * n[t - j, c].
//   in      grad_u [tokens, model_dim]; n [tokens, model_dim] operands; positions [tokens], at most t; at most 32,768 tokens
//   in/out  grad [model_dim, width]  (state rule)
// One thread a (c, j), neighbours take neighbouring c. Order R32 over the tokens, in which those whose sequence is too young
// are skipped; without any grad stays as it is. grad_u takes the operand rule here, as it is loaded.
KERNEL(CausalConvWeightGrad)

void main() {
    uint c = thread_index() % p.model_dim, j = thread_index() / p.model_dim, at = c * p.width + j;
    if (j >= p.width) return;
    float total = uintBitsToFloat(0u);
    bool any = false;
    for (uint first = 0u; first < p.tokens; first += kBlock) {
        float s = uintBitsToFloat(0u);
        bool any_here = false;
        for (uint t = first; t < min(first + kBlock, p.tokens); ++t) {
            if (p.positions.at[t] < j) continue;
            float product = operand_rule(p.grad_u.at[t * p.model_dim + c]) * p.n.at[(t - j) * p.model_dim + c];
            s = any_here ? s + product : product;
            any_here = true;
        }
        if (any_here) total = any ? total + s : s;
        any = any || any_here;
    }
    if (any) p.grad.at[at] = state_rule(checked(p.grad.at[at] + total, p.status, at));
}
