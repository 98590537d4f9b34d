#include "engine/cpu/language_rows.h"

namespace vkmoe {
inline namespace v1 {
namespace cpu {
namespace {

// Of both zeros, +0.
float largestOf(const float* logits, uint32_t vocab) {
    uint32_t key = 0;
    for (uint32_t v = 0; v < vocab; ++v) key = std::max(key, order_key(logits[v]));
    return uintBitsToFloat((key & 0x80000000u) != 0 ? key & 0x7fffffffu : ~key);
}

}  // namespace

// One workgroup a token.
void cross_entropy(const CrossEntropy& p, const Constants& c, Groups groups) {
    eachToken(groups, p.tokens, [&](uint32_t token) {
        const uint32_t row = token * p.vocab, target = p.targets.at[token];
        const float* logits = p.logits.at + row;
        float* grad = p.grad_logits.at + row;
        if (target == kAbsent) {
            p.losses.at[token] = 0;
            if (c.gradients != 0) std::fill_n(grad, p.vocab, 0.0f);
            return;
        }
        float largest = largestOf(logits, p.vocab), weight = checked(p.weights.at[token], p.status, row + target);
        float sum = sumR32(p.vocab, [&](uint32_t v) { return exact_exp(logits[v] - largest); });
        float loss = cross_entropy_loss(sum, largest, logits[target]);
        p.losses.at[token] = state_rule(checked(loss, p.status, row + target));
        for (uint32_t v = 0; c.gradients != 0 && v < p.vocab; ++v)
            grad[v] = logit_gradient(probability(logits[v], largest, sum), v == target, weight);
    });
}

}  // namespace cpu
}  // namespace v1
}  // namespace vkmoe
