#include "engine/cpu/twin.h"

namespace vkmoe {
inline namespace v1 {
namespace cpu {
namespace {

float routedSum(const Combine& p, uint32_t token, uint32_t d) {
    const uint64_t row = uint64_t{token} * p.top_k;
    auto product = [&](uint32_t m) {
        return operand_rule(p.gates.at[row + m]) *
               operand_rule(p.y.at[uint64_t{p.slot_of.at[row + m]} * p.model_dim + d]);
    };
    float total = 0;
    for (uint32_t first = 0; first < p.top_k; first += kBlock) {
        float s = product(first);
        for (uint32_t m = first + 1; m < std::min(first + kBlock, p.top_k); ++m) s = s + product(m);
        total = first == 0 ? s : total + s;
    }
    return total;
}

}  // namespace

void combine(const Combine& p, const Constants& c, Groups groups) {
    eachThread(groups, uint64_t{p.tokens} * p.model_dim, [&](uint32_t i) {
        float total = routedSum(p, i / p.model_dim, i % p.model_dim);
        if (c.shared == kSharedFirst) total = p.shared_y.at[i] + total;
        if (c.shared == kSharedLast) total = total + p.shared_y.at[i];
        p.out_.at[i] = state_rule(checked(total, p.status, i));
    });
}

}  // namespace cpu
}  // namespace v1
}  // namespace vkmoe
