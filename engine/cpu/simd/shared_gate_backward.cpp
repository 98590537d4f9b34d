#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/cpu/simd/shared_gate_backward.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "engine/cpu/simd/vectors-inl.h"
#include "engine/cpu/twin.h"

HWY_BEFORE_NAMESPACE();
namespace vkmoe {
inline namespace v1 {
namespace simd {
namespace HWY_NAMESPACE {

constexpr uint32_t kWidth = kPanel;  // columns at a time: a cache line of x

struct Column {
    V of[kPerPanel];
};

HWY_INLINE Column filled(V value) {
    Column column;
    for (V& v : column.of) v = value;
    return column;
}

// Columns [i, i + count) of the sum over tokens. -0 starts a sum: -0 + s is s, bit for bit.
HWY_INLINE Column sumTokens(const SharedGateBackward& p, uint64_t i, size_t count) {
    Column total = filled(fromBits(0x80000000u));
    for (uint32_t first = 0; first < p.tokens; first += kBlock) {
        Column s = filled(fromBits(0x80000000u));
        for (uint32_t token = first; token < std::min(first + kBlock, p.tokens); ++token) {
            V factor = hn::Set(D(), operand_rule(p.grad_shared_logits.at[token]));
            const float* x = p.x.at + uint64_t{token} * p.model_dim + i;
            for (size_t v = 0; v < kPerPanel && v * kLanes < count; ++v)
                s.of[v] = hn::Add(s.of[v], hn::Mul(factor, loadSome(x + v * kLanes, count - v * kLanes, 0.0f)));
        }
        for (size_t v = 0; v < kPerPanel; ++v) total.of[v] = hn::Add(total.of[v], s.of[v]);
    }
    return total;
}

void sharedGateBackwardRange(const SharedGateBackward& p, uint64_t begin, uint64_t end) {
    for (uint64_t i = begin; i < end; i += kWidth) {
        const size_t count = std::min<uint64_t>(kWidth, end - i);
        Column total = sumTokens(p, i, count);
        HWY_ALIGN float sums[kWidth];
        for (size_t v = 0; v < kPerPanel; ++v) hn::Store(total.of[v], D(), sums + v * kLanes);
        for (size_t j = 0; j < count; ++j)
            p.grad.at[i + j] = state_rule(checked(p.grad.at[i + j] + sums[j], p.status, uint32_t(i + j)));
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

HWY_EXPORT(sharedGateBackwardRange);

void shared_gate_backward(const SharedGateBackward& p, const Constants&, Groups groups) {
    if (p.tokens == 0) return;
    uint64_t end = std::min<uint64_t>(groups.end * kWorkgroup, p.model_dim);
    HWY_DYNAMIC_DISPATCH(sharedGateBackwardRange)(p, groups.begin * kWorkgroup, end);
}

}  // namespace simd
}  // namespace v1
}  // namespace vkmoe
#endif
