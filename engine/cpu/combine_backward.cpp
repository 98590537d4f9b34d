#include "engine/cpu/twin.h"

namespace vkmoe {
inline namespace v1 {
namespace cpu {

void combine_backward(const CombineBackward& p, const Constants& c, Groups groups) {
    eachThread(groups, uint64_t{p.tokens} * p.model_dim, [&](uint32_t i) {
        uint32_t token = i / p.model_dim, d = i % p.model_dim;
        float g = p.grad_out.at[i], operand = operand_rule(g);
        for (uint64_t a = uint64_t{token} * p.top_k; a < (uint64_t{token} + 1) * p.top_k; ++a) {
            uint32_t slot = p.slot_of.at[a];
            if (slot == kAbsent) continue;
            float x = checked(operand_rule(p.gates.at[a]) * operand, p.status, i);
            p.grad_y.at[uint64_t{slot} * p.model_dim + d] = as_operand(x, c.operand_bits);
        }
        if (c.shared == kSharedNone) return;
        if (c.shared_gate != 0) g = operand_rule(p.shared_gates.at[token]) * operand;
        p.grad_shared_y.at[i] = as_operand(checked(g, p.status, i), c.operand_bits);
    });
}

}  // namespace cpu
}  // namespace v1
}  // namespace vkmoe
