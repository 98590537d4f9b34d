#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/cpu/simd/cross_entropy.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "engine/cpu/simd/exact_math-inl.h"
#include "engine/cpu/simd/rows-inl.h"
#include "shaders/language.h"

HWY_BEFORE_NAMESPACE();
namespace vkmoe {
inline namespace v1 {
namespace simd {
namespace HWY_NAMESPACE {

// exp(logit - largest).
struct Exponentials {
    const float* logits;
    float largest;

    HWY_INLINE V at(uint32_t, uint32_t v, size_t count) const {  // of the one row
        return exactExp(hn::Sub(loadSome(logits + v, count, 0.0f), hn::Set(D(), largest)));
    }
};

// Of both zeros, +0; NaN if there is one: exactExp takes none.
HWY_INLINE float largestOf(const float* logits, uint32_t vocab) {
    V seen = hn::Set(D(), logits[0]);
    Mask nan = isNan(seen);
    for (uint32_t v = 0; v < vocab; v += kLanes) {
        V x = loadSome(logits + v, vocab - v, logits[0]);
        nan = hn::Or(nan, isNan(x));
        seen = hn::IfThenElse(hn::Gt(x, seen), x, seen);
    }
    if (!hn::AllFalse(D(), nan)) return canonical_nan();
    HWY_ALIGN float lanes[kLanes];
    hn::Store(seen, D(), lanes);
    float largest = *std::max_element(lanes, lanes + kLanes);
    return largest == 0 ? 0.0f : largest;
}

// Gradients of a row; those of one vector are read before any is written, for both may be the same memory.
HWY_INLINE void storeGradients(const Exponentials& e, float sum, float weight, uint32_t target, uint32_t vocab,
                               float* grad) {
    const float own = logit_gradient(probability(e.logits[target], e.largest, sum), true, weight);
    const V w = hn::Set(D(), operand_rule(weight)), total = hn::Set(D(), sum);
    for (uint32_t v = 0; v < vocab; v += kLanes) {
        V p = hn::Div(e.at(0, v, vocab - v), total);
        storeSome(operandRule(hn::Mul(operandRule(p), w)), grad + v, vocab - v);
    }
    grad[target] = own;
}

void entropyRange(const CrossEntropy& p, bool gradients, uint64_t begin, uint64_t end) {
    for (uint64_t token = begin; token < end; ++token) {
        const uint32_t row = uint32_t(token) * p.vocab, target = p.targets.at[token];
        float* grad = p.grad_logits.at + row;
        if (target == kAbsent) {
            p.losses.at[token] = 0;
            if (gradients) std::fill_n(grad, p.vocab, 0.0f);
            continue;
        }
        const float* logits = p.logits.at + row;
        const float weight = checked(p.weights.at[token], p.status, row + target);
        Exponentials e{logits, largestOf(logits, p.vocab)};
        float sum = canonical_nan();
        if (magnitude_bits(e.largest) < 0x7f800000u) rowSums(e, 1, p.vocab, &sum);
        float loss = cross_entropy_loss(sum, e.largest, logits[target]);
        p.losses.at[token] = state_rule(checked(loss, p.status, row + target));
        if (gradients) storeGradients(e, sum, weight, target, p.vocab, grad);
    }
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

HWY_EXPORT(entropyRange);

// One workgroup a token.
void cross_entropy(const CrossEntropy& p, const Constants& c, Groups groups) {
    HWY_DYNAMIC_DISPATCH(entropyRange)
    (p, c.gradients != 0, groups.begin, std::min<uint64_t>(groups.end, p.tokens));
}

}  // namespace simd
}  // namespace v1
}  // namespace vkmoe
#endif
