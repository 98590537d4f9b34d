#include "engine/cpu/twin.h"

namespace vkmoe {
inline namespace v1 {
namespace cpu {
namespace {

// Absent slots are skipped; without any the sum is +0.
float routedSum(const DispatchBackward& p, uint32_t token, uint32_t i) {
    const uint32_t* slots = p.slot_of.at + uint64_t{token} * p.top_k;
    float total = 0;
    bool any = false;
    for (uint32_t first = 0; first < p.top_k; first += kBlock) {
        float s = 0;
        bool any_here = false;
        for (uint32_t m = first; m < std::min(first + kBlock, p.top_k); ++m) {
            if (slots[m] == kAbsent) continue;
            float x = operand_rule(p.grad_x.at[uint64_t{slots[m]} * p.model_dim + i]);
            s = any_here ? s + x : x;
            any_here = true;
        }
        if (any_here) total = any ? total + s : s;
        any = any || any_here;
    }
    return total;
}

float sharedPart(const DispatchBackward& p, const Constants& c, uint32_t at) {
    float s = p.grad_shared_x.at[at];
    if (c.shared_gate == 0) return s;
    return s + operand_rule(p.grad_shared_logits.at[at / p.model_dim]) * p.shared_router.at[at % p.model_dim];
}

}  // namespace

void dispatch_backward(const DispatchBackward& p, const Constants& c, Groups groups) {
    eachThread(groups, uint64_t{p.tokens} * p.model_dim, [&](uint32_t at) {
        float total = routedSum(p, at / p.model_dim, at % p.model_dim);
        if (c.shared != kSharedNone) total = sharedPart(p, c, at) + total;
        p.grad_in.at[at] = state_rule(checked(total + p.grad_router_x.at[at], p.status, at));
    });
}

}  // namespace cpu
}  // namespace v1
}  // namespace vkmoe
