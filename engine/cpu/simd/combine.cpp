#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/cpu/simd/combine.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "engine/cpu/simd/vectors-inl.h"
#include "engine/cpu/twin.h"

HWY_BEFORE_NAMESPACE();
namespace vkmoe {
inline namespace v1 {
namespace simd {
namespace HWY_NAMESPACE {

// The terms of one token's outputs: slots with their gates; absent ones are left out of every sum.
struct Token {
    const uint32_t* slots;
    const float* gates;
    uint32_t index;
};

// Sum over the selection rank in order R32, lanes across outputs. -0 starts a sum: -0 + s is s, bit for bit.
HWY_INLINE V routedSum(const Combine& p, const Token& token, uint32_t d, size_t count) {
    V total = fromBits(0x80000000u);
    bool any = false;
    for (uint32_t first = 0; first < p.top_k; first += kBlock) {
        V s = fromBits(0x80000000u);
        bool any_here = false;
        for (uint32_t m = first; m < std::min(first + kBlock, p.top_k); ++m) {
            if (token.slots[m] == kAbsent) continue;
            V y = loadSome(p.y.at + uint64_t{token.slots[m]} * p.model_dim + d, count, 0.0f);
            s = hn::Add(s, hn::Mul(hn::Set(D(), operand_rule(token.gates[m])), operandRule(y)));
            any_here = true;
        }
        if (any_here) total = hn::Add(total, s);
        any = any || any_here;
    }
    return any ? total : hn::Zero(D());
}

HWY_INLINE V sharedTerm(const Combine& p, const Constants& c, uint32_t token, uint64_t at, size_t count) {
    V y = loadSome(p.shared_y.at + at, count, 0.0f);
    if (c.shared_gate == 0) return y;
    return hn::Mul(hn::Set(D(), operand_rule(p.shared_gates.at[token])), operandRule(y));
}

// Outputs [first, last) of one token.
HWY_INLINE void combineToken(const Combine& p, const Constants& c, const Token& token, uint32_t first, uint32_t last) {
    for (uint32_t d = first; d < last; d += kLanes) {
        size_t count = last - d;
        uint64_t at = uint64_t{token.index} * p.model_dim + d;
        V total = routedSum(p, token, d, count);
        if (c.shared == kSharedFirst) total = hn::Add(sharedTerm(p, c, token.index, at, count), total);
        if (c.shared == kSharedLast) total = hn::Add(total, sharedTerm(p, c, token.index, at, count));
        storeSome(stateRule(total), p.out_.at + at, count);
        if (!outOfRange(magnitudeBits(total))) continue;
        HWY_ALIGN float lanes[kLanes];
        hn::Store(total, D(), lanes);
        for (uint32_t i = 0; i < std::min(count, kLanes); ++i) checked(lanes[i], p.status, uint32_t(at) + i);
    }
}

void combineRange(const Combine& p, const Constants& c, uint64_t begin, uint64_t end) {
    while (begin < end) {
        uint32_t index = uint32_t(begin / p.model_dim), first = uint32_t(begin % p.model_dim);
        uint32_t last = uint32_t(std::min<uint64_t>(p.model_dim, first + (end - begin)));
        const uint64_t row = uint64_t{index} * p.top_k;
        combineToken(p, c, {p.slot_of.at + row, p.gates.at + row, index}, first, last);
        begin += last - first;
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

HWY_EXPORT(combineRange);

void combine(const Combine& p, const Constants& c, Groups groups) {
    uint64_t end = std::min<uint64_t>(groups.end * kWorkgroup, uint64_t{p.tokens} * p.model_dim);
    HWY_DYNAMIC_DISPATCH(combineRange)(p, c, groups.begin * kWorkgroup, end);
}

}  // namespace simd
}  // namespace v1
}  // namespace vkmoe
#endif
