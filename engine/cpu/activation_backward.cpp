#include "engine/cpu/twin.h"
#include "shaders/activation.h"

namespace vkmoe {
inline namespace v1 {
namespace cpu {

void activation_backward(const ActivationBackward& p, const Constants& c, Groups groups) {
    eachThread(groups, p.count, [&](uint32_t i) {
        const bool gated = c.activation != kRelu;
        float up = p.up_total.at[i], gate = gated ? p.gate_total.at[i] : up;
        ActivationSlope slope = activation_slope(gate, up, c.activation, p.swiglu_limit, p.swiglu_alpha);
        float grad = operand_rule(p.grad_hidden.at[i]);
        p.grad_up.at[i] = as_operand(checked(slope.up * grad, p.status, i), c.operand_bits);
        if (gated) p.grad_gate.at[i] = as_operand(checked(slope.gate * grad, p.status, i), c.operand_bits);
    });
}

}  // namespace cpu
}  // namespace v1
}  // namespace vkmoe
