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
constexpr size_t kSideBySide = 8;  // vectors, line by line: one alone waits for its long chain of quotients and roots

struct Rates {
    bool plain;  // gradients are neither scaled nor clipped
    V scale, clip, beta1, rest1, correction1, beta2, rest2, correction2, epsilon, rate, decay;

    explicit Rates(const Adamw& p)
        : plain(p.grad_scale == 1 && p.clip == 1),
          scale(hn::Set(D(), p.grad_scale)),
          clip(hn::Set(D(), p.clip)),
          beta1(hn::Set(D(), p.beta1)),
          rest1(hn::Set(D(), p.one_minus_beta1)),
          correction1(hn::Set(D(), p.correction1)),
          beta2(hn::Set(D(), p.beta2)),
          rest2(hn::Set(D(), p.one_minus_beta2)),
          correction2(hn::Set(D(), p.correction2)),
          epsilon(hn::Set(D(), p.epsilon)),
          rate(hn::Set(D(), p.learning_rate)),
          decay(hn::Set(D(), p.weight_decay)) {}
};

void flagRange(const Adamw& p, uint64_t begin, uint64_t end) {
    for (uint64_t j = begin; j < end; ++j)
        if (out_of_range(p.first.at[j]) || out_of_range(p.second.at[j]) || out_of_range(p.weights.at[j]))
            flag(p.status, uint32_t(j));
}

// The formulas of adamw.h on the `count` elements from `at` on, kVectors vectors at most. Quotients and roots are the
// vector's own, which IEEE rounds correctly: under the state rule only the last quotient may be subnormal, and the rule
// makes it zero. `second` needs no rule of its own: neither of what is added is negative.
template <bool kPlain, size_t kVectors>
HWY_INLINE void adamwVectors(const Adamw& p, const Rates& r, uint64_t at, size_t count) {
    V g[kVectors], w[kVectors], m[kVectors], v[kVectors], step[kVectors];
    const auto each = [](const auto& line) {
        VKMOE_UNROLL
        for (size_t i = 0; i < kVectors; ++i) line(i, i * kLanes);
    };
    each([&](size_t i, size_t j) { g[i] = loadSome(p.grads.at + at + j, count - j, 0.0f); });
    each([&](size_t i, size_t j) { m[i] = loadSome(p.first.at + at + j, count - j, 0.0f); });
    each([&](size_t i, size_t j) { v[i] = loadSome(p.second.at + at + j, count - j, 0.0f); });
    each([&](size_t i, size_t) {
        g[i] = stateRule(kPlain ? g[i] : hn::Mul(stateRule(hn::Mul(g[i], r.scale)), r.clip));
    });
    each([&](size_t i, size_t) {
        V square = stateRule(hn::Mul(stateRule(hn::Mul(r.rest2, g[i])), g[i]));
        v[i] = hn::Add(stateRule(hn::Mul(r.beta2, v[i])), square);
    });
    each([&](size_t i, size_t) {
        m[i] = stateRule(hn::Add(stateRule(hn::Mul(r.beta1, m[i])), stateRule(hn::Mul(r.rest1, g[i]))));
    });
    each([&](size_t i, size_t) { step[i] = hn::Add(hn::Sqrt(hn::Mul(v[i], r.correction2)), r.epsilon); });
    each([&](size_t i, size_t) { step[i] = stateRule(hn::Div(hn::Mul(m[i], r.correction1), step[i])); });
    each([&](size_t i, size_t j) { w[i] = loadSome(p.weights.at + at + j, count - j, 0.0f); });
    each([&](size_t i, size_t) {
        V move = stateRule(hn::Mul(r.rate, hn::Add(step[i], stateRule(hn::Mul(r.decay, w[i])))));
        w[i] = hn::IfThenElse(hn::Eq(move, hn::Zero(D())), w[i], operandRule(hn::Sub(w[i], move)));
    });
    VI seen = hn::Zero(DI());
    each([&](size_t i, size_t j) {
        storeSome(m[i], p.first.at + at + j, count - j);
        storeSome(v[i], p.second.at + at + j, count - j);
        storeSome(w[i], p.weights.at + at + j, count - j);
        seen = largest(largest(largest(seen, m[i]), v[i]), w[i]);
    });
    if (outOfRange(seen)) flagRange(p, at, at + std::min(count, kVectors * kLanes));
}

template <bool kPlain>
HWY_INLINE void adamwAll(const Adamw& p, const Rates& rates, uint64_t begin, uint64_t end) {
    constexpr size_t kStep = kSideBySide * kLanes;
    uint64_t at = begin;
    for (; at + kStep <= end; at += kStep) {
        for (const float* from : {p.grads.at, p.weights.at, p.first.at, p.second.at})
            for (size_t i = 0; i < kStep; i += 16) hwy::Prefetch(from + at + i + kAhead);
        adamwVectors<kPlain, kSideBySide>(p, rates, at, kStep);
    }
    for (; at < end; at += kLanes) adamwVectors<kPlain, 1>(p, rates, at, end - at);
}

void adamwRange(const Adamw& p, uint64_t begin, uint64_t end) {
    const Rates rates(p);
    rates.plain ? adamwAll<true>(p, rates, begin, end) : adamwAll<false>(p, rates, begin, end);
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
