// What both forms of router_loss_backward share.
#pragma once

#include <vector>

#include "engine/cpu/softmax.h"
#include "engine/cpu/twin.h"

namespace vkmoe {
inline namespace v1 {

// The experts' shares of all assignments.
inline std::vector<float> fractionsOf(const RouterLossBackward& p) {
    std::vector<float> fractions(p.experts);
    for (uint32_t e = 0; e < p.experts; ++e)
        fractions[e] = divide(float(p.counts.at[e]), float(std::max(p.assignments, 1u)));
    return fractions;
}

// What a probability is multiplied by in the gradient of the z-loss.
inline float zFactor(const RouterLossBackward& p, const Softmax& softmax) {
    return operand_rule(operand_rule(p.z_scale) * operand_rule(softmax.largest + exact_log(softmax.sum)));
}

}  // namespace v1
}  // namespace vkmoe
