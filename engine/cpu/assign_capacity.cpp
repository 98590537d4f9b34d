#include <vector>

#include "engine/cpu/gates.h"

namespace vkmoe {
inline namespace v1 {
namespace cpu {
namespace {

// The experts of one token, best first, that have room.
std::vector<uint32_t> accept(const AssignCapacity& p, uint32_t token) {
    const uint32_t* keys = p.keys.at + uint64_t{token} * p.experts;
    std::vector<uint64_t> order;
    for (uint32_t e = 0; e < p.experts; ++e)
        if (keys[e] != 0 && p.taken.at[e] < p.capacity) order.push_back(uint64_t{~keys[e]} << 32 | e);
    size_t count = std::min<size_t>(p.top_k, order.size());
    std::partial_sort(order.begin(), order.begin() + ptrdiff_t(count), order.end());
    std::vector<uint32_t> accepted;
    for (size_t j = 0; j < count; ++j) p.taken.at[accepted.emplace_back(static_cast<uint32_t>(order[j]))] += 1;
    return accepted;
}

void assign(const AssignCapacity& p, const Constants& c, uint32_t token) {
    std::vector<uint32_t> experts = accept(p, token);
    std::vector<float> gates;
    for (uint32_t e : experts) gates.push_back(p.scores.at[uint64_t{token} * p.experts + e]);
    if (c.score == kSoftmaxSelected && !gates.empty()) exponentiate(gates);
    if (experts.empty()) {
        experts.push_back(0);
        gates.push_back(exact_div(1, float(p.top_k)));
    }
    float divisor = chosenSum(gates);
    if (c.score != kSoftmaxSelected) divisor = divisor + p.renormalize_epsilon;
    bool divide = (c.score == kSoftmaxSelected || c.renormalize != 0) && magnitude_bits(divisor) != 0;
    for (uint32_t j = 0; j < p.top_k; ++j) {
        uint32_t at = token * p.top_k + j;
        bool padding = j >= gates.size();
        float gate = padding ? 0 : divide ? exact_div(gates[j], divisor) : gates[j];
        p.selected.at[at] = padding ? experts.back() : experts[j];
        p.gates.at[at] = state_rule(checked(scaledGate(gate, p.routed_scale, c), p.status, at));
    }
}

}  // namespace

void assign_capacity(const AssignCapacity& p, const Constants& c, Groups groups) {
    if (groups.begin != 0) return;
    for (uint32_t t = 0; t < p.tokens; ++t) assign(p, c, p.first_token + t);
}

}  // namespace cpu
}  // namespace v1
}  // namespace vkmoe
