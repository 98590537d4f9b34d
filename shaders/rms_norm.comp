#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/kernel.glsl"
#include "shaders/language.h"
// rms_norm: y[t, c] = weight[c] * x[t, c] / roots[t], roots[t] = sqrt(mean of x[t, .]^2 + epsilon).
//   in   x [tokens, model_dim]; weight [model_dim]
//   out  y [tokens, model_dim] operands; roots [tokens]  (state rule)
// One workgroup a token; the squares are summed in order R32 over c. The inverse of the root is rounded once and multiplies.
// A root that may not be stored is counted by the first index of its row. Source: Zhang and Sennrich, 2019.
KERNEL(RmsNorm)
#include "shaders/row_sum.glsl"

float term(uint c) { return rms_square(p.x.at[group_index() * p.model_dim + c]); }

void main() {
    uint token = group_index(), row = token * p.model_dim;
    if (token >= p.tokens) return;  // the whole workgroup
    float root = rms_root(row_sum(p.model_dim), p.model_dim, p.epsilon);
    float inverse = rms_inverse(root);
    if (lane_index() == 0u) p.roots.at[token] = state_rule(checked(root, p.status, row));
    for (uint c = lane_index(); c < p.model_dim; c += kWorkgroup)
        p.y.at[row + c] = operand_rule(checked(rms_scaled(p.weight.at[c], p.x.at[row + c], inverse), p.status, row + c));
}
