// The same choice and the same sums as the shader; ranks come from a sort instead of counting (integers: no
// difference).
#include <numeric>
#include <vector>

#include "engine/cpu/twin.h"

namespace vkmoe {
inline namespace v1 {
namespace cpu {
namespace {

// Sum of term(0..count-1) in order R32.
template <class Term>
float sumR32(uint32_t count, const Term& term) {
    float total = 0;
    for (uint32_t first = 0; first < count; first += kBlock) {
        float s = term(first);
        for (uint32_t i = first + 1; i < std::min(first + kBlock, count); ++i) s = s + term(i);
        total = first == 0 ? s : total + s;
    }
    return total;
}

// The top_k experts of one token, best first, ties to the lower index.
void choose(const RouteTopk& p, const Constants& c, const float* logits, std::vector<uint64_t>& order) {
    order.resize(p.experts);
    for (uint32_t e = 0; e < p.experts; ++e) {
        float score = c.selection_bias != 0 ? logits[e] + p.selection_bias.at[e] : logits[e];
        order[e] = uint64_t{~order_key(score)} << 32 | e;
    }
    std::partial_sort(order.begin(), order.begin() + p.top_k, order.end());
}

void gates(const RouteTopk& p, const Constants& c, uint32_t token, const float* logits, float m, float sum) {
    const uint32_t* chosen = p.selected.at + uint64_t{token} * p.top_k;
    float m_chosen = logits[chosen[0]];
    for (uint32_t j = 1; j < p.top_k; ++j) m_chosen = std::max(m_chosen, logits[chosen[j]]);
    std::vector<float> numerator(p.top_k);
    for (uint32_t j = 0; j < p.top_k; ++j) {
        float x = logits[chosen[j]];
        numerator[j] = c.score == kSoftmax ? exact_div(exact_exp(x - m), sum) : exact_exp(x - m_chosen);
    }
    bool divide = c.score == kSoftmaxSelected || c.renormalize != 0;
    float divisor = divide ? sumR32(p.top_k, [&](uint32_t j) { return numerator[j]; }) : m;
    if (c.score == kSoftmax && c.renormalize != 0) divisor = divisor + p.renormalize_epsilon;
    for (uint32_t j = 0; j < p.top_k; ++j) {
        float gate = divide ? exact_div(numerator[j], divisor) : numerator[j];
        if (c.scaled != 0) gate = operand_rule(gate) * p.routed_scale;
        uint32_t at = token * p.top_k + j;
        p.gates.at[at] = state_rule(checked(gate, p.status, at));
    }
}

void route(const RouteTopk& p, const Constants& c, uint32_t token, std::vector<uint64_t>& order) {
    const float* logits = p.logits.at + uint64_t{token} * p.experts;
    choose(p, c, logits, order);
    for (uint32_t j = 0; j < p.top_k; ++j)
        p.selected.at[uint64_t{token} * p.top_k + j] = static_cast<uint32_t>(order[j]);
    float m = logits[0], sum = 0;
    if (c.score == kSoftmax || c.probabilities != 0) {
        for (uint32_t e = 1; e < p.experts; ++e) m = std::max(m, logits[e]);
        sum = sumR32(p.experts, [&](uint32_t e) { return exact_exp(logits[e] - m); });
    }
    gates(p, c, token, logits, m, sum);
    if (c.probabilities == 0) return;
    float* probabilities = p.probabilities.at + uint64_t{token} * p.experts;
    for (uint32_t e = 0; e < p.experts; ++e) probabilities[e] = state_rule(exact_div(exact_exp(logits[e] - m), sum));
}

}  // namespace

void route_topk(const RouteTopk& p, const Constants& c, Groups groups) {
    uint64_t group_tokens = kWorkgroup / c.lanes;
    std::vector<uint64_t> order;
    for (uint64_t t = groups.begin * group_tokens; t < std::min<uint64_t>(groups.end * group_tokens, p.tokens); ++t)
        route(p, c, static_cast<uint32_t>(t), order);
}

}  // namespace cpu
}  // namespace v1
}  // namespace vkmoe
