// What the twins of gradients share.
#pragma once

#include "shaders/exact_math.h"

namespace vkmoe {
inline namespace v1 {

// From the gradient of a shared expert's gate s to that of its logit.
inline float sharedLogitGrad(float grad, float s) {
    return operand_rule(operand_rule(grad) * operand_rule(s * (1 - s)));
}

}  // namespace v1
}  // namespace vkmoe
