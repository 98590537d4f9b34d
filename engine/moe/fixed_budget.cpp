#include "engine/moe/fixed_budget.h"

#include <algorithm>
#include <numeric>

#include "engine/cpu/sums.h"
#include "shaders/exact_math.h"

namespace vkmoe {
inline namespace v1 {
namespace {

// Indices of the largest values first, ties to the lower index.
std::vector<uint32_t> descending(std::span<const float> values) {
    std::vector<uint32_t> order(values.size());
    std::iota(order.begin(), order.end(), 0u);
    std::stable_sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) { return values[a] > values[b]; });
    return order;
}

// x^n by repeated multiplication: logits meet their rank as an exponent, also where they are negative.
float power(float x, uint32_t n) {
    float result = x;
    for (uint32_t i = 1; i < n; ++i) result = result * x;
    return result;
}

// keys[e][t]: what experts compare tokens by.
std::vector<std::vector<float>> keysOf(std::span<const float> logits, uint32_t experts) {
    size_t tokens = logits.size() / experts;
    std::vector<std::vector<float>> keys(experts, std::vector<float>(tokens));
    for (size_t t = 0; t < tokens; ++t) {
        auto row = logits.subspan(t * experts, experts);
        auto order = descending(row);
        for (uint32_t rank = 0; rank < experts; ++rank) keys[order[rank]][t] = power(row[order[rank]], rank + 1);
    }
    return keys;
}

// Softmax over all experts of the top_k largest of a token's taken logits; what was not taken, or trimmed, counts as 0.
std::vector<float> gatesOf(std::vector<float> taken, const Description& d) {
    auto order = descending(taken);
    for (size_t i = d.top_k; i < order.size(); ++i) taken[order[i]] = 0;
    float m = *std::max_element(taken.begin(), taken.end());
    for (float& x : taken) x = exact_exp(x - m);
    float sum = sumR32(uint32_t(taken.size()), [&](uint32_t e) { return taken[e]; });
    for (float& x : taken) {
        float gate = exact_div(x, sum);
        x = state_rule(d.routed_scale != 1 ? state_rule(gate) * d.routed_scale : gate);
    }
    return taken;
}

}  // namespace

std::optional<uint32_t> tokensPerExpert(const Description& d, uint64_t tokens) {
    if (tokens <= 1) return std::nullopt;
    float share = d.tokens_per_expert_ratio * float(tokens * d.top_k) / float(d.experts);
    if (!(share < 0x1p31f)) return std::nullopt;
    uint64_t budget = (uint64_t(share) + 7) / 8 * 8;
    if (3 * budget > 2 * tokens) return std::nullopt;
    return uint32_t(budget);
}

Routes fixedBudgetRoutes(const Description& d, std::span<const float> logits, uint32_t budget) {
    size_t tokens = logits.size() / d.experts;
    auto keys = keysOf(logits, d.experts);
    std::vector<std::vector<uint32_t>> experts_of(tokens);  // ascending, as experts come in ascending order
    for (uint32_t e = 0; e < d.experts; ++e) {
        auto order = descending(keys[e]);
        for (uint32_t i = 0; i < std::min<size_t>(budget, tokens); ++i) experts_of[order[i]].push_back(e);
    }
    Routes routes;
    routes.top_k = 1;
    for (const auto& experts : experts_of) routes.top_k = std::max(routes.top_k, uint32_t(experts.size()));
    for (size_t t = 0; t < tokens; ++t) {
        std::vector<float> taken(d.experts);
        for (uint32_t e : experts_of[t]) taken[e] = logits[t * d.experts + e];
        auto gates = gatesOf(std::move(taken), d);
        for (uint32_t m = 0; m < routes.top_k; ++m) {
            bool there = m < experts_of[t].size();
            routes.experts.push_back(there ? experts_of[t][m] : kNoExpert);
            routes.gates.push_back(there ? gates[experts_of[t][m]] : 0);
        }
    }
    return routes;
}

}  // namespace v1
}  // namespace vkmoe
