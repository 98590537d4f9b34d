// Router: chooses a token's experts and forms their gates: what both forms of route_topk share. The same choice and the
// same sums as the shader; ranks come from a search instead of counting (integers: no difference).
#pragma once

#include <vector>

#include "engine/cpu/gates.h"
#include "engine/cpu/softmax.h"

namespace vkmoe {
inline namespace v1 {

// What of a token's logits is found before its experts are chosen, [experts] each, as far as it is wanted.
struct RouterScores {
    const float* probabilities;  // softmax over all experts
    const float* sigmoids;
};

inline bool wantsProbabilities(const Constants& c) { return c.score == kSoftmax || c.probabilities != 0; }
inline bool wantsSigmoids(const Constants& c) { return c.score == kSigmoid; }

// One token at a time; the vectors are scratch.
class Router {
public:
    Router(const RouteTopk& params, const Constants& constants) : p(params), c(constants) {}

    void route(uint32_t token, const RouterScores& found) {
        const float* logits = p.logits.at + uint64_t{token} * p.experts;
        const float* scores = c.score == kSoftmax ? found.probabilities : c.score == kSigmoid ? found.sigmoids : logits;
        if (c.probabilities != 0)
            std::transform(found.probabilities, found.probabilities + p.experts,
                           p.probabilities.at + uint64_t{token} * p.experts, state_rule);
        computeKeys(logits, scores);
        if (c.group_score != kNoGroups) dropGroups();
        if (c.capacity != 0) {
            std::copy(key.begin(), key.end(), p.keys.at + uint64_t{token} * p.experts);
            std::copy_n(scores, p.experts, p.scores.at + uint64_t{token} * p.experts);
            return;
        }
        choose(token);
        writeGates(token, scores);
    }

private:
    const RouteTopk& p;
    const Constants& c;
    std::vector<float> chosen = std::vector<float>(p.top_k);
    std::vector<uint32_t> key = std::vector<uint32_t>(p.experts), group_keys = {};
    std::vector<uint64_t> order = std::vector<uint64_t>(p.experts);

    static float keyValue(uint32_t key) { return uintBitsToFloat((key & 0x80000000u) != 0 ? key & 0x7fffffffu : ~key); }

    void computeKeys(const float* logits, const float* scores) {
        bool by_score = c.selection_bias != 0 || c.group_score == kGroupSumOfTop2;
        for (uint32_t e = 0; e < p.experts; ++e) {
            float s = scores[e];
            if (c.selection_bias != 0) s = s + p.selection_bias.at[e];
            key[e] = order_key(by_score ? state_rule(s) : logits[e]);
        }
    }

    uint32_t groupKey(uint32_t first, uint32_t size) const {
        uint32_t best = key[first], second = 0;
        for (uint32_t e = first + 1; e < first + size; ++e) {
            second = std::max(second, std::min(best, key[e]));
            best = std::max(best, key[e]);
        }
        return c.group_score == kGroupMax ? best : order_key(keyValue(best) + keyValue(second));
    }

    // Experts outside the best groups get key 0, which is below that of -infinity.
    void dropGroups() {
        uint32_t size = p.experts / p.groups;
        group_keys.resize(p.groups);
        for (uint32_t g = 0; g < p.groups; ++g) group_keys[g] = groupKey(g * size, size);
        for (uint32_t g = 0; g < p.groups; ++g) {
            uint32_t rank = 0;
            for (uint32_t other = 0; other < p.groups; ++other)
                rank += group_keys[other] > group_keys[g] || (group_keys[other] == group_keys[g] && other < g);
            if (rank >= p.groups_kept) std::fill_n(key.begin() + ptrdiff_t(g) * size, size, 0u);
        }
    }

    // Best first, ties to the lower index. Few of few are sooner found one after the other than sorted.
    void choose(uint32_t token) {
        uint32_t* selected = p.selected.at + uint64_t{token} * p.top_k;
        for (uint32_t e = 0; e < p.experts; ++e) order[e] = uint64_t{~key[e]} << 32 | e;
        if (p.experts * p.top_k <= kFew) {
            uint64_t least = 0;
            for (uint32_t j = 0; j < p.top_k; ++j) {
                uint64_t next = ~uint64_t{0};
                for (uint64_t o : order) next = o >= least && o < next ? o : next;
                selected[j] = static_cast<uint32_t>(next);
                least = next + 1;
            }
            return;
        }
        std::partial_sort(order.begin(), order.begin() + p.top_k, order.end());
        for (uint32_t j = 0; j < p.top_k; ++j) selected[j] = static_cast<uint32_t>(order[j]);
    }

    void writeGates(uint32_t token, const float* scores) {
        const uint32_t* selected = p.selected.at + uint64_t{token} * p.top_k;
        for (uint32_t j = 0; j < p.top_k; ++j) chosen[j] = scores[selected[j]];
        const bool sums_to_one = c.score == kSoftmaxSelected || c.renormalize != 0;
        if (c.score == kSoftmaxSelected) exponentiate(chosen);
        if (sums_to_one) {
            float divisor = chosenSum(chosen);
            if (c.score != kSoftmaxSelected) divisor = divisor + p.renormalize_epsilon;
            bool even = magnitude_bits(divisor) == 0;
            for (float& g : chosen) g = even ? divide(1, float(p.top_k)) : divide(g, divisor);
        }
        for (uint32_t j = 0; j < p.top_k; ++j) {
            uint32_t at = token * p.top_k + j;
            p.gates.at[at] = state_rule(checked(scaledGate(chosen[j], p.routed_scale, c), p.status, at));
        }
    }

    static constexpr uint32_t kFew = 256;
};

}  // namespace v1
}  // namespace vkmoe
