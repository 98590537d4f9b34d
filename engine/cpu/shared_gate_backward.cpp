#include "engine/cpu/sums.h"
#include "engine/cpu/twin.h"

namespace vkmoe {
inline namespace v1 {
namespace cpu {

void shared_gate_backward(const SharedGateBackward& p, const Constants&, Groups groups) {
    if (p.tokens == 0) return;
    eachThread(groups, p.model_dim, [&](uint32_t i) {
        float total = sumR32(p.tokens, [&](uint32_t t) {
            return operand_rule(p.grad_shared_logits.at[t]) * p.x.at[uint64_t{t} * p.model_dim + i];
        });
        p.grad.at[i] = state_rule(checked(p.grad.at[i] + total, p.status, i));
    });
}

}  // namespace cpu
}  // namespace v1
}  // namespace vkmoe
