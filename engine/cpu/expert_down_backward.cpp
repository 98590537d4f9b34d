#include "engine/cpu/grad_panels.h"

namespace vkmoe {
inline namespace v1 {
namespace cpu {

void expert_down_backward(const ExpertDownBackward& p, const Constants& c, Groups groups) {
    eachOutput(p, c, groups, p.hidden_dim, [&](const uint32_t* page, uint32_t row, uint32_t output) {
        PackedMatrix down{page + p.down_weight, p.model_dim, p.hidden_dim, c.weight_format};
        uint32_t at = row * p.hidden_dim + output;
        float total = columnDot(p.grad_y.at + uint64_t{row} * p.model_dim, down, output);
        p.grad_hidden.at[at] = state_rule(checked(total, p.status, at));
    });
}

}  // namespace cpu
}  // namespace v1
}  // namespace vkmoe
