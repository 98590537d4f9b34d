#include "shaders/adamw.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/cpu/simd/adamw.cpp"
#include <hwy/cache_control.h>
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "engine/cpu/simd/vectors-inl.h"
#include "engine/cpu/twin.h"
#include "host/cpu/float_environment.h"

HWY_BEFORE_NAMESPACE();
namespace vkmoe {
inline namespace v1 {
namespace simd {
namespace HWY_NAMESPACE {

constexpr size_t kAhead = 512;  // words that are fetched ahead: four streams are more than the processor follows well

// The formulas of adamw.h. Quotients and roots are the vector's own, which IEEE rounds correctly: under the state rule
// only the last quotient may be subnormal, and the rule makes it zero. `below(move, 1)`: a move of zero.
void adamwRange(const Adamw& p, uint64_t begin, uint64_t end) {
    const D d;
    const V scale = hn::Set(d, p.grad_scale), clip = hn::Set(d, p.clip), rate = hn::Set(d, p.learning_rate);
    const V beta1 = hn::Set(d, p.beta1), rest1 = hn::Set(d, p.one_minus_beta1), correction1 = hn::Set(d, p.correction1);
    const V beta2 = hn::Set(d, p.beta2), rest2 = hn::Set(d, p.one_minus_beta2), correction2 = hn::Set(d, p.correction2);
    const V epsilon = hn::Set(d, p.epsilon), decay = hn::Set(d, p.weight_decay);
    for (uint64_t i = begin; i < end; i += kLanes) {
        const size_t count = end - i;
        for (const float* from : {p.grads.at, p.weights.at, p.first.at, p.second.at}) hwy::Prefetch(from + i + kAhead);
        V g = loadSome(p.grads.at + i, count, 0.0f), w = loadSome(p.weights.at + i, count, 0.0f);
        V m = loadSome(p.first.at + i, count, 0.0f), v = loadSome(p.second.at + i, count, 0.0f);
        g = stateRule(hn::Mul(stateRule(hn::Mul(g, scale)), clip));
        m = stateRule(hn::Add(stateRule(hn::Mul(beta1, m)), stateRule(hn::Mul(rest1, g))));
        V square = stateRule(hn::Mul(stateRule(hn::Mul(rest2, g)), g));
        v = stateRule(hn::Add(stateRule(hn::Mul(beta2, v)), square));
        V root = hn::Add(hn::Sqrt(hn::Mul(v, correction2)), epsilon);
        V step = stateRule(hn::Div(hn::Mul(m, correction1), root));
        V move = stateRule(hn::Mul(rate, hn::Add(step, stateRule(hn::Mul(decay, w)))));
        w = hn::IfThenElse(below(move, 1), w, operandRule(hn::Sub(w, move)));
        storeSome(m, p.first.at + i, count);
        storeSome(v, p.second.at + i, count);
        storeSome(w, p.weights.at + i, count);
        if (!outOfRange(largest(largest(magnitudeBits(m), v), w))) continue;
        for (uint64_t j = i; j < std::min(end, i + kLanes); ++j)
            if (out_of_range(p.first.at[j]) || out_of_range(p.second.at[j]) || out_of_range(p.weights.at[j]))
                flag(p.status, uint32_t(j));
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

HWY_EXPORT(adamwRange);

// With constants.skip, the pages that were touched one by one.
void adamw(const Adamw& p, const Constants& c, Groups groups) {
    SubnormalsAreZero rule;
    const uint64_t end = std::min<uint64_t>(groups.end * kWorkgroup, p.count);
    for (uint64_t i = groups.begin * kWorkgroup; i < end;) {
        uint64_t page = c.skip != 0 ? i / p.page_words : 0;
        uint64_t stop = c.skip != 0 ? std::min(end, (page + 1) * p.page_words) : end;
        if (c.skip == 0 || p.touched.at[page] != 0) HWY_DYNAMIC_DISPATCH(adamwRange)(p, i, stop);
        i = stop;
    }
}

}  // namespace simd
}  // namespace v1
}  // namespace vkmoe
#endif
