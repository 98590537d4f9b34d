// The same choice and the same sums as the shader; ranks come from a sort instead of counting (integers: no
// difference).
#include <numeric>
#include <vector>

#include "engine/cpu/gates.h"
#include "engine/cpu/softmax.h"

namespace vkmoe {
inline namespace v1 {
namespace cpu {
namespace {

float keyValue(uint32_t key) { return uintBitsToFloat((key & 0x80000000u) != 0 ? key & 0x7fffffffu : ~key); }

// One token at a time; the vectors are scratch.
struct Router {
    const RouteTopk& p;
    const Constants& c;
    std::vector<float> score = std::vector<float>(p.experts), chosen = {};
    std::vector<uint32_t> key = std::vector<uint32_t>(p.experts), group_keys = {};
    std::vector<uint64_t> order = {};

    void route(uint32_t token) {
        const float* logits = p.logits.at + uint64_t{token} * p.experts;
        computeScores(token, logits);
        computeKeys(logits);
        if (c.group_score != kNoGroups) dropGroups();
        if (c.capacity != 0) {
            std::copy(key.begin(), key.end(), p.keys.at + uint64_t{token} * p.experts);
            std::copy(score.begin(), score.end(), p.scores.at + uint64_t{token} * p.experts);
            return;
        }
        choose(token);
        writeGates(token);
    }

private:
    void computeScores(uint32_t token, const float* logits) {
        if (c.score == kSoftmax || c.probabilities != 0) softmaxOf(logits, p.experts, score.data());
        if (c.probabilities != 0)
            std::transform(score.begin(), score.end(), p.probabilities.at + uint64_t{token} * p.experts, state_rule);
        if (c.score == kSoftmax) return;
        for (uint32_t e = 0; e < p.experts; ++e) score[e] = c.score == kSigmoid ? exact_sigmoid(logits[e]) : logits[e];
    }

    void computeKeys(const float* logits) {
        bool by_score = c.selection_bias != 0 || c.group_score == kGroupSumOfTop2;
        for (uint32_t e = 0; e < p.experts; ++e) {
            float s = score[e];
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

    // Best first, ties to the lower index.
    void choose(uint32_t token) {
        order.resize(p.experts);
        for (uint32_t e = 0; e < p.experts; ++e) order[e] = uint64_t{~key[e]} << 32 | e;
        std::partial_sort(order.begin(), order.begin() + p.top_k, order.end());
        for (uint32_t j = 0; j < p.top_k; ++j)
            p.selected.at[uint64_t{token} * p.top_k + j] = static_cast<uint32_t>(order[j]);
    }

    void writeGates(uint32_t token) {
        const uint32_t* selected = p.selected.at + uint64_t{token} * p.top_k;
        chosen.resize(p.top_k);
        for (uint32_t j = 0; j < p.top_k; ++j) chosen[j] = score[selected[j]];
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
};

}  // namespace

void route_topk(const RouteTopk& p, const Constants& c, Groups groups) {
    uint64_t group_tokens = kWorkgroup / c.lanes;
    Router router{p, c};
    for (uint64_t t = groups.begin * group_tokens; t < std::min<uint64_t>(groups.end * group_tokens, p.tokens); ++t)
        router.route(static_cast<uint32_t>(t));
}

}  // namespace cpu
}  // namespace v1
}  // namespace vkmoe
