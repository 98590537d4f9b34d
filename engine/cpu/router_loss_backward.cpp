#include "engine/cpu/router_loss.h"

namespace vkmoe {
inline namespace v1 {
namespace cpu {
namespace {

void addGradients(const RouterLossBackward& p, uint32_t token, const std::vector<float>& fractions,
                  float* probability) {
    const uint64_t row = uint64_t{token} * p.experts;
    Softmax softmax = softmaxOf(p.logits.at + row, p.experts, probability);
    for (uint32_t e = 0; e < p.experts; ++e) probability[e] = operand_rule(probability[e]);
    float expected = sumR32(p.experts, [&](uint32_t e) { return fractions[e] * probability[e]; });
    const float z = zFactor(p, softmax);
    const bool balanced = magnitude_bits(p.balance_scale) != 0, penalized = magnitude_bits(p.z_scale) != 0;
    for (uint32_t e = 0; e < p.experts; ++e) {
        float grad = p.grad_logits.at[row + e];
        float balance = operand_rule(operand_rule(p.balance_scale) * probability[e]);
        if (balanced) grad = grad + balance * operand_rule(fractions[e] - expected);
        if (penalized) grad = grad + z * probability[e];
        p.grad_logits.at[row + e] = operand_rule(checked(grad, p.status, uint32_t(row) + e));
    }
}

}  // namespace

void router_loss_backward(const RouterLossBackward& p, const Constants& c, Groups groups) {
    const TokenRange range = tokensOf(groups, c, p.tokens);
    const std::vector<float> fractions = fractionsOf(p);
    std::vector<float> probability(p.experts);
    for (uint64_t t = range.begin; t < range.end; ++t)
        addGradients(p, static_cast<uint32_t>(t), fractions, probability.data());
}

}  // namespace cpu
}  // namespace v1
}  // namespace vkmoe
