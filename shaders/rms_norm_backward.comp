#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/kernel.glsl"
#include "shaders/language.h"
// rms_norm_backward: grad_x[t, c] = residual[t, c] + weight[c]*grad_y[t, c] / r - x[t, c] * A / (model_dim * r^3),
// r = roots[t], A = sum over c of weight[c]*grad_y[t, c] * x[t, c].
//   in   x, grad_y, residual [tokens, model_dim] state; weight [model_dim]; roots [tokens]
//   out  grad_x [tokens, model_dim]  (state rule); may be residual
// One workgroup a token; A in order R32 over c. 1 / r and A / (model_dim * r^3) are rounded once a token and multiply.
KERNEL(RmsNormBackward)
#include "shaders/row_sum.glsl"

float term(uint c) {
    uint at = group_index() * p.model_dim + c;
    return rms_slope_term(rms_gradient(p.weight.at[c], p.grad_y.at[at]), p.x.at[at]);
}

void main() {
    uint token = group_index(), row = token * p.model_dim;
    if (token >= p.tokens) return;  // the whole workgroup
    float inverse = rms_inverse(p.roots.at[token]);
    float slope = rms_slope(row_sum(p.model_dim), p.model_dim, inverse);
    for (uint c = lane_index(); c < p.model_dim; c += kWorkgroup) {
        uint at = row + c;
        float own = rms_backward(rms_gradient(p.weight.at[c], p.grad_y.at[at]), p.x.at[at], inverse, slope);
        p.grad_x.at[at] = state_rule(checked(p.residual.at[at] + own, p.status, at));
    }
}
