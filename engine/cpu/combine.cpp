#include "engine/cpu/twin.h"

namespace vkmoe {
inline namespace v1 {
namespace cpu {
namespace {

// Absent slots are skipped; without any the sum is +0.
float routedSum(const Combine& p, uint32_t token, uint32_t d) {
    const uint64_t row = uint64_t{token} * p.top_k;
    float total = 0;
    bool any = false;
    for (uint32_t first = 0; first < p.top_k; first += kBlock) {
        float s = 0;
        bool any_here = false;
        for (uint32_t m = first; m < std::min(first + kBlock, p.top_k); ++m) {
            uint32_t slot = p.slot_of.at[row + m];
            if (slot == kAbsent) continue;
            float product = operand_rule(p.gates.at[row + m]) * operand_rule(p.y.at[uint64_t{slot} * p.model_dim + d]);
            s = any_here ? s + product : product;
            any_here = true;
        }
        if (any_here) total = any ? total + s : s;
        any = any || any_here;
    }
    return total;
}

float sharedTerm(const Combine& p, const Constants& c, uint32_t i) {
    float y = p.shared_y.at[i];
    return c.shared_gate != 0 ? operand_rule(p.shared_gates.at[i / p.model_dim]) * operand_rule(y) : y;
}

}  // namespace

void combine(const Combine& p, const Constants& c, Groups groups) {
    eachThread(groups, uint64_t{p.tokens} * p.model_dim, [&](uint32_t i) {
        float total = routedSum(p, i / p.model_dim, i % p.model_dim);
        if (c.shared == kSharedFirst) total = sharedTerm(p, c, i) + total;
        if (c.shared == kSharedLast) total = total + sharedTerm(p, c, i);
        p.out_.at[i] = state_rule(checked(total, p.status, i));
    });
}

}  // namespace cpu
}  // namespace v1
}  // namespace vkmoe
