#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/cpu/simd/dispatch_backward.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "engine/cpu/simd/rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace vkmoe {
inline namespace v1 {
namespace simd {
namespace HWY_NAMESPACE {

// Sum over the selection rank in order R32, lanes across outputs. -0 starts a sum: -0 + s is s, bit for bit.
HWY_INLINE V routedSum(const DispatchBackward& p, const uint32_t* slots, uint32_t i, size_t count) {
    V total = minusZero();
    bool any = false;
    for (uint32_t first = 0; first < p.top_k; first += kBlock) {
        V s = minusZero();
        bool any_here = false;
        for (uint32_t m = first; m < std::min(first + kBlock, p.top_k); ++m) {
            if (slots[m] == kAbsent) continue;
            s = hn::Add(s, operandRule(loadSome(p.grad_x.at + uint64_t{slots[m]} * p.model_dim + i, count, 0.0f)));
            any_here = true;
        }
        if (any_here) total = hn::Add(total, s);
        any = any || any_here;
    }
    return any ? total : hn::Zero(D());
}

HWY_INLINE V sharedPart(const DispatchBackward& p, const Constants& c, uint64_t token, uint32_t i, size_t count) {
    V s = loadSome(p.grad_shared_x.at + token * p.model_dim + i, count, 0.0f);
    if (c.shared_gate == 0) return s;
    V factor = hn::Set(D(), operand_rule(p.grad_shared_logits.at[token]));
    return hn::Add(s, hn::Mul(factor, loadSome(p.shared_router.at + i, count, 0.0f)));
}

// Elements [first, last) of one token.
HWY_INLINE void sumToken(const DispatchBackward& p, const Constants& c, uint64_t token, uint32_t first, uint32_t last) {
    for (uint32_t i = first; i < last; i += kLanes) {
        size_t count = last - i;
        uint64_t at = token * p.model_dim + i;
        V total = routedSum(p, p.slot_of.at + token * p.top_k, i, count);
        if (c.shared != kSharedNone) total = hn::Add(sharedPart(p, c, token, i, count), total);
        total = hn::Add(total, loadSome(p.grad_router_x.at + at, count, 0.0f));
        storeState(total, p.grad_in.at, uint32_t(at), count, p.status);
    }
}

void dispatchBackwardRange(const DispatchBackward& p, const Constants& c, uint64_t begin, uint64_t end) {
    eachStretch(begin, end, p.model_dim,
                [&](uint32_t token, uint32_t first, uint32_t last) HWY_ATTR { sumToken(p, c, token, first, last); });
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

HWY_EXPORT(dispatchBackwardRange);

void dispatch_backward(const DispatchBackward& p, const Constants& c, Groups groups) {
    uint64_t end = std::min<uint64_t>(groups.end * kWorkgroup, uint64_t{p.tokens} * p.model_dim);
    HWY_DYNAMIC_DISPATCH(dispatchBackwardRange)(p, c, groups.begin * kWorkgroup, end);
}

}  // namespace simd
}  // namespace v1
}  // namespace vkmoe
#endif
