// One step of AdamW on one parameter, one text for GLSL and C++ (Loshchilov and Hutter, "Decoupled Weight Decay
// Regularization", 2019; the moments' corrections, formed in double, are multiplied in).
//
// Every product that is added follows the state rule first, so that nothing subnormal enters a sum.
#ifndef VKMOE_ADAMW_H
#define VKMOE_ADAMW_H

#include "shaders/exact_math.h"

#ifdef __cplusplus
namespace vkmoe {
inline namespace v1 {
#endif

// The gradient that counts: scaled, then clipped.
EXACT float adamw_gradient(float gradient, float scale, float clip) {
    return state_rule(state_rule(gradient * scale) * clip);
}

// Mean of the gradients. `rest` is 1 - beta.
EXACT float adamw_first(float m, float g, float beta, float rest) {
    return state_rule(state_rule(beta * m) + state_rule(rest * g));
}

// Mean of their squares.
EXACT float adamw_second(float v, float g, float beta, float rest) {
    return state_rule(state_rule(beta * v) + state_rule(state_rule(rest * g) * g));
}

EXACT float adamw_step(float m, float v, float correction1, float correction2, float epsilon) {
    return state_rule(exact_div(m * correction1, exact_sqrt(v * correction2) + epsilon));
}

// A weight that has nowhere to go keeps its bits; one that moves is stored as an operand.
EXACT float adamw_weight(float w, float step, float learning_rate, float decay) {
    float move = state_rule(learning_rate * (step + state_rule(decay * w)));
    return magnitude_bits(move) == 0u ? w : operand_rule(w - move);
}

#ifdef __cplusplus
}  // inline namespace v1
}  // namespace vkmoe
#endif
#endif
