#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/cpu/simd/router_loss_backward.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "engine/cpu/router_loss.h"
#include "engine/cpu/simd/rows-inl.h"
#include "engine/cpu/simd/softmax.h"
#include "engine/cpu/simd/thread_memory.h"

HWY_BEFORE_NAMESPACE();
namespace vkmoe {
inline namespace v1 {
namespace simd {
namespace HWY_NAMESPACE {

// Shares times probabilities, which are operands, [tokens][experts].
struct ExpectedShares {
    const float *fractions, *probabilities;
    uint32_t experts;

    HWY_INLINE V at(uint32_t token, uint32_t e, size_t count) const {
        return hn::Mul(loadSome(fractions + e, count, 0.0f),
                       loadSome(probabilities + size_t{token} * experts + e, count, 0.0f));
    }
};

HWY_INLINE void addRow(const RouterLossBackward& p, uint32_t token, const ExpectedShares& shares, uint32_t row,
                       float expected, float z) {
    const bool balanced = magnitude_bits(p.balance_scale) != 0, penalized = magnitude_bits(p.z_scale) != 0;
    const V scale = hn::Set(D(), operand_rule(p.balance_scale)), all = hn::Set(D(), expected);
    const uint32_t at = token * p.experts;
    for (uint32_t e = 0; e < p.experts; e += kLanes) {
        const size_t count = p.experts - e;
        V probability = loadSome(shares.probabilities + size_t{row} * p.experts + e, count, 0.0f);
        V grad = loadSome(p.grad_logits.at + at + e, count, 0.0f);
        V balance = operandRule(hn::Mul(scale, probability));
        V share = operandRule(hn::Sub(loadSome(shares.fractions + e, count, 0.0f), all));
        if (balanced) grad = mad(balance, share, grad);
        if (penalized) grad = mad(hn::Set(D(), z), probability, grad);
        storeSome(operandRule(grad), p.grad_logits.at + at + e, count);
        checkSome(grad, count, p.status, at + e);
    }
}

// `count` tokens from `first` on.
void addRouterLoss(const RouterLossBackward& p, uint32_t first, uint32_t count, const float* fractions,
                   float* probabilities) {
    Softmax found[kSoftmaxRows];
    softmaxRows(p.logits.at + uint64_t{first} * p.experts, count, p.experts, probabilities, found);
    const size_t values = size_t{count} * p.experts;
    for (size_t i = 0; i < values; i += kLanes)
        storeSome(operandRule(loadSome(probabilities + i, values - i, 0.0f)), probabilities + i, values - i);
    const ExpectedShares shares{fractions, probabilities, p.experts};
    float expected[kSoftmaxRows];
    rowSums(shares, count, p.experts, expected);
    const bool penalized = magnitude_bits(p.z_scale) != 0;
    for (uint32_t i = 0; i < count; ++i)
        addRow(p, first + i, shares, i, expected[i], penalized ? zFactor(p, found[i]) : 0);
}

}  // namespace HWY_NAMESPACE
}  // namespace simd
}  // namespace v1
}  // namespace vkmoe
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace vkmoe {
inline namespace v1 {
namespace simd {
namespace {

struct LossProbabilities;  // whose memory

}  // namespace

HWY_EXPORT(addRouterLoss);

void router_loss_backward(const RouterLossBackward& p, const Constants& c, Groups groups) {
    const std::vector<float> fractions = fractionsOf(p);
    float* probabilities = threadMemory<LossProbabilities>(size_t{kSoftmaxRows} * p.experts);
    eachFewTokens(tokensOf(groups, c, p.tokens), [&](uint32_t first, uint32_t count) {
        HWY_DYNAMIC_DISPATCH(addRouterLoss)(p, first, count, fractions.data(), probabilities);
    });
}

}  // namespace simd
}  // namespace v1
}  // namespace vkmoe
#endif
