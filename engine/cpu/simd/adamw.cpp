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
// Vectors, line by line: one alone waits for its long chain of quotients and roots.
constexpr size_t kSideBySide = 8, kDownVectors = 4;

// kDown: below 2^-100 the state rule makes zero, below 2^-126 the processor does (SubnormalsAreZero).
constexpr float kDown = 0x1p-26f, kUp = 0x1p26f;

struct Rates {
    V scale, clip, beta1, rest1, correction1, beta2, rest2, correction2, epsilon, rate, decay;

    // `by`: 1 for the factors of adamw.h, kDown for adamwDown's.
    Rates(const Adamw& p, float by)
        : scale(hn::Set(D(), p.grad_scale * by)),
          clip(hn::Set(D(), p.clip)),
          beta1(hn::Set(D(), p.beta1 * by)),
          rest1(hn::Set(D(), p.one_minus_beta1 * by)),
          correction1(hn::Set(D(), p.correction1 * by)),
          beta2(hn::Set(D(), p.beta2 * by)),
          rest2(hn::Set(D(), p.one_minus_beta2 * by)),
          correction2(hn::Set(D(), p.correction2)),
          epsilon(hn::Set(D(), p.epsilon)),
          rate(hn::Set(D(), p.learning_rate)),
          decay(hn::Set(D(), p.weight_decay * by)) {}
};

// line(i, i * kLanes) for each of kVectors vectors.
template <size_t kVectors, class Line>
HWY_INLINE void eachVector(const Line& line) {
    VKMOE_UNROLL
    for (size_t i = 0; i < kVectors; ++i) line(i, i * kLanes);
}

void flagRange(const Adamw& p, uint64_t begin, uint64_t end) {
    for (uint64_t j = begin; j < end; ++j)
        if (out_of_range(p.first.at[j]) || out_of_range(p.second.at[j]) || out_of_range(p.weights.at[j]))
            flag(p.status, uint32_t(j));
}

// The formulas of adamw.h on the `count` elements from `at` on, kVectors vectors at most. Quotients and roots are the
// vector's own, which IEEE rounds correctly: under the state rule only the last quotient may be subnormal, and the rule
// makes it zero. `second` needs no rule of its own: neither of what is added is negative.
template <size_t kVectors>
HWY_INLINE void adamwVectors(const Adamw& p, const Rates& r, uint64_t at, size_t count) {
    V g[kVectors], w[kVectors], m[kVectors], v[kVectors], step[kVectors];
    const auto each = [](const auto& line) { eachVector<kVectors>(line); };
    each([&](size_t i, size_t j) { g[i] = loadSome(p.grads.at + at + j, count - j, 0.0f); });
    each([&](size_t i, size_t j) { m[i] = loadSome(p.first.at + at + j, count - j, 0.0f); });
    each([&](size_t i, size_t j) { v[i] = loadSome(p.second.at + at + j, count - j, 0.0f); });
    each([&](size_t i, size_t) { g[i] = stateRule(hn::Mul(stateRule(hn::Mul(g[i], r.scale)), r.clip)); });
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

// Whether adamwDown's reasons hold: no factor leaves the normal numbers on the way down, none makes anything larger but
// the corrections, and no quotient or root of what may be stored overflows.
bool fitsDown(const Adamw& p) {
    auto fits = [](float x) { return x == 0 || (x >= 0x1p-60f && x <= 1); };
    return fits(p.grad_scale) && fits(p.clip) && fits(p.beta1) && fits(p.one_minus_beta1) && fits(p.beta2) &&
           fits(p.one_minus_beta2) && fits(p.learning_rate) && fits(p.weight_decay) && p.correction1 >= 1 &&
           p.correction2 >= 1 && p.correction2 <= kUp * kUp && p.correction1 <= p.epsilon * (kUp * kUp);
}

// The same on whole vectors with two fifths of the instructions: products are formed kDown times as large, so that the
// processor applies the state rule as it rounds, and what is stored is brought up again, exactly. Only the sign of a
// zero may differ on the way: the first moment loses it as +0 is added, the second has none, and a weight does not move
// for either zero. A sum step + decay * w that the rule would not touch, but the processor makes zero, moves no weight:
// the rate is at most 1. What may not be stored is left to adamwVectors: down there it might not have overflowed.
template <bool kPlain>
HWY_INLINE void adamwDown(const Adamw& p, const Rates& r, const Rates& exact, uint64_t at) {
    const V up = hn::Set(D(), kUp), zero = hn::Zero(D());
    V g[kDownVectors], w[kDownVectors], m[kDownVectors], v[kDownVectors], step[kDownVectors];
    const auto each = [](const auto& line) { eachVector<kDownVectors>(line); };
    each([&](size_t i, size_t j) { g[i] = hn::LoadU(D(), p.grads.at + at + j); });
    if constexpr (!kPlain) each([&](size_t i, size_t) { g[i] = hn::Mul(hn::Mul(hn::Mul(g[i], r.scale), r.clip), up); });
    each([&](size_t i, size_t j) {
        v[i] = hn::Add(hn::Mul(r.beta2, hn::LoadU(D(), p.second.at + at + j)), hn::Mul(hn::Mul(r.rest2, g[i]), g[i]));
        v[i] = hn::Mul(v[i], up);
    });
    each([&](size_t i, size_t j) {
        m[i] = hn::Add(hn::Mul(r.beta1, hn::LoadU(D(), p.first.at + at + j)), hn::Mul(r.rest1, g[i]));
        m[i] = hn::MulAdd(m[i], up, zero);
    });
    each([&](size_t i, size_t) { step[i] = hn::Add(hn::Sqrt(hn::Mul(v[i], r.correction2)), r.epsilon); });
    each([&](size_t i, size_t) { step[i] = hn::Div(hn::Mul(m[i], r.correction1), step[i]); });
    each([&](size_t i, size_t j) { w[i] = hn::LoadU(D(), p.weights.at + at + j); });
    each([&](size_t i, size_t) {
        V move = hn::Mul(r.rate, hn::Add(step[i], hn::Mul(r.decay, w[i])));
        w[i] = hn::IfThenElse(hn::Eq(move, zero), w[i], operandRule(hn::NegMulAdd(move, up, w[i])));
    });
    VI seen = hn::Zero(DI());
    each([&](size_t i, size_t) { seen = hn::Max(largest(largest(seen, m[i]), w[i]), hn::BitCast(DI(), v[i])); });
    if (outOfRange(seen)) return adamwVectors<kDownVectors>(p, exact, at, kDownVectors * kLanes);
    each([&](size_t i, size_t j) {
        hn::StoreU(m[i], D(), p.first.at + at + j);
        hn::StoreU(v[i], D(), p.second.at + at + j);
        hn::StoreU(w[i], D(), p.weights.at + at + j);
    });
}

template <bool kGoesDown, bool kPlain>
HWY_INLINE void adamwAll(const Adamw& p, uint64_t begin, uint64_t end) {
    constexpr size_t kVectors = kGoesDown ? kDownVectors : kSideBySide, kStep = kVectors * kLanes;
    const Rates exact(p, 1), down(p, kGoesDown ? kDown : 1);
    uint64_t at = begin;
    for (; at + kStep <= end; at += kStep) {
        for (const float* from : {p.grads.at, p.weights.at, p.first.at, p.second.at})
            for (size_t i = 0; i < kStep; i += 16) hwy::Prefetch(from + at + i + kAhead);
        if constexpr (kGoesDown)
            adamwDown<kPlain>(p, down, exact, at);
        else
            adamwVectors<kVectors>(p, exact, at, kStep);
    }
    for (; at < end; at += kLanes) adamwVectors<1>(p, exact, at, end - at);
}

// `flushes`: the processor's zeros are the rule's, see makesZeros.
void adamwRange(const Adamw& p, uint64_t begin, uint64_t end, bool flushes) {
    const bool plain = p.grad_scale == 1 && p.clip == 1;  // gradients are neither scaled nor clipped
    if (!flushes || !fitsDown(p)) return adamwAll<false, false>(p, begin, end);
    plain ? adamwAll<true, true>(p, begin, end) : adamwAll<true, false>(p, begin, end);
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
namespace {

// Whether SubnormalsAreZero acts, and on results as they are once rounded: asked of the processor (or what plays one).
bool makesZeros() {
    SubnormalsAreZero rule;
    volatile float least = 0x1p-126f, half = 0.5f, over = 0x1p-63f + 0x1p-76f, under = 0x1p-63f - 0x1p-76f;
    volatile float tiny = least * half, rounded = over * under;  // 2^-126 - 2^-152, which rounds to 2^-126
    return floatBitsToUint(tiny) == 0 && floatBitsToUint(rounded) == floatBitsToUint(least);
}

}  // namespace

// With constants.skip, the pages that were touched one by one.
void adamw(const Adamw& p, const Constants& c, Groups groups) {
    static const bool flushes = makesZeros();
    SubnormalsAreZero rule;
    const uint64_t end = std::min<uint64_t>(groups.end * kWorkgroup, p.count);
    for (uint64_t i = groups.begin * kWorkgroup; i < end;) {
        uint64_t page = c.skip != 0 ? i / p.page_words : 0;
        uint64_t stop = c.skip != 0 ? std::min(end, (page + 1) * p.page_words) : end;
        if (c.skip == 0 || p.touched.at[page] != 0) HWY_DYNAMIC_DISPATCH(adamwRange)(p, i, stop, flushes);
        i = stop;
    }
}

}  // namespace simd
}  // namespace v1
}  // namespace vkmoe
#endif
