// Formulas of the language model's kernels, one text for GLSL and C++.
//
// What a kernel stores still takes a rule and a check. Operands of products take the operand rule here; a product that
// is added to something else takes the state rule, so that no sum ever sees a subnormal number.
#ifndef VKMOE_LANGUAGE_H
#define VKMOE_LANGUAGE_H

#include "shaders/exact_math.h"

#ifdef __cplusplus
namespace vkmoe {
inline namespace v1 {
#endif

// ---- RMSNorm: y = weight * x / root, root = sqrt(mean of x^2 + epsilon) ---------------------------------------------

EXACT float rms_square(float x) {
    float v = operand_rule(x);
    return v * v;
}

EXACT float rms_root(float squares, uint dim, float epsilon) {
    return exact_sqrt(exact_div(squares, float(dim)) + state_rule(epsilon));
}

EXACT float rms_inverse(float root) { return exact_div(uintBitsToFloat(0x3f800000u), root); }

EXACT float rms_scaled(float weight, float x, float inverse) {
    return (operand_rule(weight) * operand_rule(x)) * inverse;
}

// weight * grad_y, the gradient of x / root.
EXACT float rms_gradient(float weight, float grad_y) { return state_rule(weight * grad_y); }

// One term of the product of that gradient and x.
EXACT float rms_slope_term(float gradient, float x) { return operand_rule(gradient) * operand_rule(x); }

// slope / (dim * root^3): what x loses of itself. `slope` is the sum of the terms. Divided step by step: no power
// overflows.
EXACT float rms_slope(float slope, uint dim, float inverse) {
    float mean = exact_div(state_rule(slope * inverse), float(dim));
    return state_rule(state_rule(mean * inverse) * inverse);
}

// The gradient of x.
EXACT float rms_backward(float gradient, float x, float inverse, float slope) {
    return state_rule(gradient * inverse) - state_rule(x * slope);
}

// One term of the gradient of a weight.
EXACT float rms_weight_term(float grad_y, float x, float inverse) {
    return operand_rule(grad_y) * operand_rule(x * inverse);
}

// ---- cross entropy: log(sum of exp(logits)) - the target's logit ----------------------------------------------------

// Both terms are positive or zero: nothing cancels.
EXACT float cross_entropy_loss(float sum, float largest, float logit) { return exact_log(sum) + (largest - logit); }

EXACT float probability(float logit, float largest, float sum) { return exact_div(exact_exp(logit - largest), sum); }

// weight * (probability - one at the target), as an operand.
EXACT float logit_gradient(float probability_, bool is_target, float weight) {
    float difference = is_target ? probability_ - uintBitsToFloat(0x3f800000u) : probability_;
    return operand_rule(operand_rule(difference) * operand_rule(weight));
}

#ifdef __cplusplus
}  // inline namespace v1
}  // namespace vkmoe
#endif
#endif
