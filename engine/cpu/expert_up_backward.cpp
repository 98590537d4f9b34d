#include "engine/cpu/grad_panels.h"

namespace vkmoe {
inline namespace v1 {
namespace cpu {

void expert_up_backward(const ExpertUpBackward& p, const Constants& c, Groups groups) {
    eachOutput(p, c, groups, p.model_dim, [&](const uint32_t* page, uint32_t row, uint32_t output) {
        auto total = [&](F32 grad, uint32_t weight) {
            PackedMatrix matrix{page + weight, p.hidden_dim, p.model_dim, c.weight_format};
            return columnDot(grad.at + uint64_t{row} * p.hidden_dim, matrix, output);
        };
        float sum = total(p.grad_up, p.up_weight);
        if (c.activation != kRelu) sum = total(p.grad_gate, p.gate_weight) + sum;
        uint32_t at = row * p.model_dim + output;
        p.grad_x.at[at] = state_rule(checked(sum, p.status, at));
    });
}

}  // namespace cpu
}  // namespace v1
}  // namespace vkmoe
