#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/kernel.glsl"
#include "shaders/row_total.glsl"
// squared_error: the loss sum of (out - target)^2 / 2, and its gradient.
//   in   out_, target [tokens, model_dim]
//   out  grad_out [tokens, model_dim] = out_ - target  (state rule); losses [tokens]  (state rule)
// One workgroup a token; the status counts by outputs, a loss by its first. Differences take the operand rule before they
// are squared. Order R32 over model_dim.
KERNEL(SquaredError)

float row_term(uint row, uint other, uint d) {
    float difference = operand_rule(p.out_.at[row + d] - p.target.at[other + d]);
    return (difference * difference) * uintBitsToFloat(0x3f000000u);
}

void main() {
    uint token = group_index(), row = token * p.model_dim;
    if (token >= p.tokens) return;  // the whole workgroup
    for (uint d = lane_index(); d < p.model_dim; d += kWorkgroup)
        p.grad_out.at[row + d] = state_rule(checked(p.out_.at[row + d] - p.target.at[row + d], p.status, row + d));
    float loss = row_total(row, row, p.model_dim);
    if (lane_index() == 0u) p.losses.at[token] = state_rule(checked(loss, p.status, row));
}
