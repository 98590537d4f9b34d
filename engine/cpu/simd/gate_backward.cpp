#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/cpu/simd/gate_backward.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "engine/cpu/gradients.h"
#include "engine/cpu/simd/rows-inl.h"
#include "engine/cpu/twin.h"

HWY_BEFORE_NAMESPACE();
namespace vkmoe {
inline namespace v1 {
namespace simd {
namespace HWY_NAMESPACE {

// Pairs of rows: what is multiplied.
struct Products {
    const float *a[kRowsAtOnce], *b[kRowsAtOnce];

    HWY_INLINE V at(uint32_t row, uint32_t column, size_t count) const {
        return hn::Mul(operandRule(loadSome(a[row] + column, count, 0.0f)),
                       operandRule(loadSome(b[row] + column, count, 0.0f)));
    }
};

void gateBackwardRange(const GateBackward& p, const Constants& c, uint64_t begin, uint64_t end) {
    const uint64_t gates = p.top_k + c.shared_gate, width = p.model_dim;
    Products products;
    uint64_t gate[kRowsAtOnce];
    float sums[kRowsAtOnce];
    for (uint64_t g = begin; g < end;) {
        uint32_t count = 0;
        for (; g < end && count < kRowsAtOnce; ++g) {
            const uint64_t token = g / gates, m = g % gates, a = token * p.top_k + m;
            if (m != p.top_k && p.slot_of.at[a] == kAbsent) {
                p.grad_gates.at[a] = 0;
                continue;
            }
            gate[count] = g;
            products.a[count] = p.grad_out.at + token * width;
            products.b[count++] = m == p.top_k ? p.shared_y.at + token * width : p.y.at + p.slot_of.at[a] * width;
        }
        rowSums(products, count, p.model_dim, sums);
        for (uint32_t i = 0; i < count; ++i) {
            const uint64_t token = gate[i] / gates, m = gate[i] % gates;
            const float total = checked(sums[i], p.status, uint32_t(gate[i]));
            if (m == p.top_k)
                p.grad_shared_logits.at[token] = sharedLogitGrad(total, p.shared_gates.at[token]);
            else
                p.grad_gates.at[token * p.top_k + m] = state_rule(total);
        }
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
