// RouterBackward: the gradients of a token's logits from those of its gates: what both forms of route_topk_backward
// share. The same sums as the shader; experts collect the gradients of their ranks instead of looking for them.
#pragma once

#include <vector>

#include "engine/cpu/softmax.h"
#include "engine/cpu/twin.h"

namespace vkmoe {
inline namespace v1 {

// One token at a time; the vectors are scratch.
class RouterBackward {
public:
    RouterBackward(const RouteTopkBackward& params, const Constants& constants) : p(params), c(constants) {}

    // `probabilities` [experts]: the softmax over all experts, where it is wanted.
    void differentiate(uint32_t token, const float* probabilities) {
        const float* logits = p.logits.at + uint64_t{token} * p.experts;
        const uint32_t* selected = p.selected.at + uint64_t{token} * p.top_k;
        computeScores(logits, selected, probabilities);
        computeGradients(token, selected);
        float inner = 0;
        if (divides()) {
            divideScores();
            inner = overRanks([&](uint32_t m) { return state_rule(state_rule(weight[m]) * grad[m]); });
        }
        for (uint32_t m = 0; m < p.top_k; ++m) {
            float d = divides() ? state_rule(grad[m] - inner) : grad[m];
            value[m] = state_rule(state_rule(weight[m]) * d);
            if (c.score == kSigmoid && selected[m] < p.experts)
                value[m] = state_rule(value[m] * (1 - exact_sigmoid(logits[selected[m]])));
        }
        collect(selected);
        store(token, probabilities);
    }

private:
    const RouteTopkBackward& p;
    const Constants& c;
    std::vector<float> weight = std::vector<float>(p.top_k), grad = weight, value = weight;
    std::vector<float> sum = std::vector<float>(p.experts);
    std::vector<uint8_t> any = std::vector<uint8_t>(p.experts);

    bool divides() const { return c.score == kSoftmaxSelected || c.renormalize != 0; }

    template <class Term>
    float overRanks(const Term& term) const {
        return sumR32(p.top_k, term);
    }

    // Of skipped ranks: 0.
    void computeScores(const float* logits, const uint32_t* selected, const float* probabilities) {
        float largest = 0;
        bool seen = false;
        for (uint32_t m = 0; m < p.top_k; ++m) {
            if (selected[m] >= p.experts) continue;
            largest = seen && largest > logits[selected[m]] ? largest : logits[selected[m]];
            seen = true;
        }
        for (uint32_t m = 0; m < p.top_k; ++m) {
            const uint32_t e = selected[m];
            if (e >= p.experts)
                weight[m] = 0;
            else if (c.score == kSoftmax)
                weight[m] = probabilities[e];
            else
                weight[m] = c.score == kSigmoid ? exact_sigmoid(logits[e]) : exact_exp(logits[e] - largest);
        }
    }

    void computeGradients(uint32_t token, const uint32_t* selected) {
        for (uint32_t m = 0; m < p.top_k; ++m) {
            float d = selected[m] < p.experts ? state_rule(p.grad_gates.at[uint64_t{token} * p.top_k + m]) : 0;
            grad[m] = c.scaled != 0 ? state_rule(d * state_rule(p.routed_scale)) : d;
        }
    }

    void divideScores() {
        float divisor = overRanks([&](uint32_t m) { return weight[m]; });
        if (c.score != kSoftmaxSelected) divisor = divisor + p.renormalize_epsilon;
        const bool even = magnitude_bits(divisor) == 0;
        for (float& w : weight) w = even ? 0 : divide(w, divisor);
    }

    void collect(const uint32_t* selected) {
        std::fill(any.begin(), any.end(), uint8_t{0});
        for (uint32_t m = 0; m < p.top_k; ++m) {
            const uint32_t e = selected[m];
            if (e >= p.experts) continue;
            sum[e] = any[e] != 0 ? sum[e] + value[m] : value[m];
            any[e] = 1;
        }
    }

    void store(uint32_t token, const float* probabilities) {
        float total = c.score == kSoftmax ? state_rule(overRanks([&](uint32_t m) { return value[m]; })) : 0;
        for (uint32_t e = 0; e < p.experts; ++e) {
            float g = any[e] != 0 ? sum[e] : 0;
            if (c.score == kSoftmax) {
                float share = state_rule(state_rule(probabilities[e]) * total);
                g = any[e] != 0 ? sum[e] - share : -share;
            }
            uint32_t at = token * p.experts + e;
            p.grad_logits.at[at] = operand_rule(checked(g, p.status, at));
        }
    }
};

}  // namespace v1
}  // namespace vkmoe
