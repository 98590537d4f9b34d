// The oracle of one expert, forward and backward, for one token.
#pragma once

#include "tests/moe/reference.h"
#include "tests/train/doubles.h"

namespace test {

// An expert's values on the way, kept for its backward pass.
struct ExpertValues {
    Doubles gate, up, hidden;  // [width]; gate is up for relu
    Doubles y;                 // [model_dim]
    double corner = 1e30;      // how near gate or up came to a corner of the activation
};

ExpertValues runExpert(const ReferenceExpert& expert, const vkmoe::Description& description, const Doubles& x,
                       size_t width);

// Accumulates the gradients of the expert's tensors and of x from y's.
void expertBackward(const ReferenceExpert& expert, const vkmoe::Description& description, const ExpertValues& values,
                    const Doubles& x, const Doubles& grad_y, ReferenceExpert& grad, Doubles& grad_x);

// y = weights * x + bias: accumulates the gradients of all three from y's; an empty grad_bias: there is none.
void productBackward(const Doubles& weights, const Doubles& x, const Doubles& grad_y, Doubles& grad_weights,
                     Doubles& grad_bias, Doubles& grad_x);

}  // namespace test
