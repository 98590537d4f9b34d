#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/cpu/simd/gate_backward.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "engine/cpu/gradients.h"
#include "engine/cpu/simd/vectors-inl.h"
#include "engine/cpu/twin.h"

HWY_BEFORE_NAMESPACE();
namespace vkmoe {
inline namespace v1 {
namespace simd {
namespace HWY_NAMESPACE {

constexpr uint32_t kQuad = 4;  // blocks whose sums share a vector
using D4 = hn::CappedTag<float, kQuad>;
constexpr uint32_t kLanes4 = uint32_t(hn::MaxLanes(D4()));

HWY_INLINE V products(const float* a, const float* b, size_t count) {
    return hn::Mul(operandRule(loadSome(a, count, 0.0f)), operandRule(loadSome(b, count, 0.0f)));
}

// Totals of four whole blocks from a and b on (of the last of `blocks`, again, where there are fewer). Products are
// formed in memory order and stored one block beside the other: then a lane adds up a block.
HWY_INLINE void fourBlocks(const float* a, const float* b, uint32_t blocks, float* totals) {
    HWY_ALIGN float terms[kQuad * kBlock];  // [k, block]
    size_t start[kQuad];
    for (uint32_t i = 0; i < kQuad; ++i) start[i] = size_t{std::min(i, blocks - 1)} * kBlock;
    VKMOE_UNROLL
    for (size_t k = 0; k < kBlock; k += kLanes)
        hn::StoreInterleaved4(products(a + start[0] + k, b + start[0] + k, kLanes),
                              products(a + start[1] + k, b + start[1] + k, kLanes),
                              products(a + start[2] + k, b + start[2] + k, kLanes),
                              products(a + start[3] + k, b + start[3] + k, kLanes), D(), terms + kQuad * k);
    const D4 d4;
    for (uint32_t lane = 0; lane < kQuad; lane += kLanes4) {
        auto s = hn::Load(d4, terms + lane);
        VKMOE_UNROLL
        for (uint32_t k = 1; k < kBlock; ++k) s = hn::Add(s, hn::Load(d4, terms + kQuad * k + lane));
        hn::Store(s, d4, totals + lane);
    }
}

// -0 is where a sum starts: -0 + s is s, bit for bit.
HWY_INLINE float dotOperands(const float* a, const float* b, uint32_t count) {
    HWY_ALIGN float totals[kQuad];
    const uint32_t whole = count / kBlock;
    float total = -0.0f;
    for (uint32_t first = 0; first < whole; first += kQuad) {
        uint32_t blocks = std::min(whole - first, kQuad);
        fourBlocks(a + size_t{first} * kBlock, b + size_t{first} * kBlock, blocks, totals);
        for (uint32_t i = 0; i < blocks; ++i) total = total + totals[i];
    }
    float rest = -0.0f;
    for (uint32_t k = whole * kBlock; k < count; ++k) rest = rest + operand_rule(a[k]) * operand_rule(b[k]);
    return total + rest;
}

void gateBackwardRange(const GateBackward& p, const Constants& c, uint64_t begin, uint64_t end) {
    const uint64_t gates = p.top_k + c.shared_gate, width = p.model_dim;
    for (uint64_t g = begin; g < end; ++g) {
        const uint64_t token = g / gates, m = g % gates, a = token * p.top_k + m;
        const bool shared = m == p.top_k;
        if (!shared && p.slot_of.at[a] == kAbsent) {
            p.grad_gates.at[a] = 0;
            continue;
        }
        const float* y = shared ? p.shared_y.at + token * width : p.y.at + p.slot_of.at[a] * width;
        float total = checked(dotOperands(p.grad_out.at + token * width, y, p.model_dim), p.status, uint32_t(g));
        if (shared)
            p.grad_shared_logits.at[token] = sharedLogitGrad(total, p.shared_gates.at[token]);
        else
            p.grad_gates.at[a] = state_rule(total);
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

HWY_EXPORT(gateBackwardRange);

void gate_backward(const GateBackward& p, const Constants& c, Groups groups) {
    uint64_t end = std::min(groups.end, uint64_t{p.tokens} * (p.top_k + c.shared_gate));
    HWY_DYNAMIC_DISPATCH(gateBackwardRange)(p, c, groups.begin, end);
}

}  // namespace simd
}  // namespace v1
}  // namespace vkmoe
#endif
