#include "engine/cpu/gradients.h"
#include "engine/cpu/sums.h"
#include "engine/cpu/twin.h"

namespace vkmoe {
inline namespace v1 {
namespace cpu {
namespace {

float dotOperands(const float* a, const float* b, uint32_t count) {
    return sumR32(count, [&](uint32_t k) { return operand_rule(a[k]) * operand_rule(b[k]); });
}

}  // namespace

// One workgroup a gate.
void gate_backward(const GateBackward& p, const Constants& c, Groups groups) {
    const uint32_t gates = p.top_k + c.shared_gate;
    for (uint64_t g = groups.begin; g < std::min(groups.end, uint64_t{p.tokens} * gates); ++g) {
        const uint64_t token = g / gates, m = g % gates, a = token * p.top_k + m, D = p.model_dim;
        const bool shared = m == p.top_k;
        if (!shared && p.slot_of.at[a] == kAbsent) {
            p.grad_gates.at[a] = 0;
            continue;
        }
        const float* y = shared ? p.shared_y.at + token * D : p.y.at + p.slot_of.at[a] * D;
        float total = checked(dotOperands(p.grad_out.at + token * D, y, p.model_dim), p.status, uint32_t(g));
        if (shared)
            p.grad_shared_logits.at[token] = sharedLogitGrad(total, p.shared_gates.at[token]);
        else
            p.grad_gates.at[a] = state_rule(total);
    }
}

}  // namespace cpu
}  // namespace v1
}  // namespace vkmoe
