#include "engine/cpu/language_rows.h"

namespace vkmoe {
inline namespace v1 {
namespace cpu {

void causal_conv_backward(const CausalConvBackward& p, const Constants&, Groups groups) {
    eachThread(groups, uint64_t{p.tokens} * p.model_dim, [&](uint32_t i) {
        uint32_t token = i / p.model_dim, taps = std::min(p.width, p.remaining.at[token] + 1);
        const float* weight = p.weight.at + uint64_t{i % p.model_dim} * p.width;
        const float* grad_u = p.grad_u.at + i;
        float total = sumR32(taps, [&](uint32_t j) {
            return operand_rule(weight[j]) * operand_rule(grad_u[uint64_t{j} * p.model_dim]);
        });
        p.grad_n.at[i] = state_rule(checked(total, p.status, i));
    });
}

}  // namespace cpu
}  // namespace v1
}  // namespace vkmoe
