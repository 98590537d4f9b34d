#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/cpu/simd/combine_backward.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "engine/cpu/simd/rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace vkmoe {
inline namespace v1 {
namespace simd {
namespace HWY_NAMESPACE {

// gate * grad_out for elements [first, last) of a token, whose row of `to` this is.
HWY_INLINE void scaleRow(const CombineBackward& p, float gate, uint64_t row, uint32_t first, uint32_t last,
                         uint32_t bits, float* to) {
    V factor = hn::Set(D(), operand_rule(gate));
    for (uint32_t d = first; d < last; d += kLanes) {
        V g = operandRule(loadSome(p.grad_out.at + row + d, last - d, 0.0f));
        storeOperands(hn::Mul(factor, g), to + d, last - d, bits, p.status, row + d);
    }
}

HWY_INLINE void copyRow(const CombineBackward& p, uint64_t row, uint32_t first, uint32_t last, uint32_t bits,
                        float* to) {
    for (uint32_t d = first; d < last; d += kLanes) {
        V g = loadSome(p.grad_out.at + row + d, last - d, 0.0f);
        storeOperands(g, to + d, last - d, bits, p.status, row + d);
    }
}

void combineBackwardRange(const CombineBackward& p, const Constants& c, uint64_t begin, uint64_t end) {
    while (begin < end) {
        const uint64_t token = begin / p.model_dim, row = token * p.model_dim;
        const uint32_t first = uint32_t(begin % p.model_dim);
        const uint32_t last = uint32_t(std::min<uint64_t>(p.model_dim, first + (end - begin)));
        for (uint64_t a = token * p.top_k; a < (token + 1) * p.top_k; ++a) {
            if (p.slot_of.at[a] == kAbsent) continue;
            float* to = p.grad_y.at + uint64_t{p.slot_of.at[a]} * p.model_dim;
            scaleRow(p, p.gates.at[a], row, first, last, c.operand_bits, to);
        }
        if (c.shared != kSharedNone && c.shared_gate != 0)
            scaleRow(p, p.shared_gates.at[token], row, first, last, c.operand_bits, p.grad_shared_y.at + row);
        else if (c.shared != kSharedNone)
            copyRow(p, row, first, last, c.operand_bits, p.grad_shared_y.at + row);
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

HWY_EXPORT(combineBackwardRange);

void combine_backward(const CombineBackward& p, const Constants& c, Groups groups) {
    uint64_t end = std::min<uint64_t>(groups.end * kWorkgroup, uint64_t{p.tokens} * p.model_dim);
    HWY_DYNAMIC_DISPATCH(combineBackwardRange)(p, c, groups.begin * kWorkgroup, end);
}

}  // namespace simd
}  // namespace v1
}  // namespace vkmoe
#endif
