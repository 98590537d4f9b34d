#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/cpu/simd/apply_rule.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "engine/cpu/simd/vectors-inl.h"
#include "engine/cpu/twin.h"

HWY_BEFORE_NAMESPACE();
namespace vkmoe {
inline namespace v1 {
namespace simd {
namespace HWY_NAMESPACE {

void applyRange(const ApplyRule& p, uint32_t operand_bits, uint64_t begin, uint64_t end) {
    const auto* source = reinterpret_cast<const float*>(p.source.at);
    for (uint64_t i = begin; i < end; i += kLanes) {
        V x = loadSome(source + i, end - i, 0.0f);
        storeSome(operand_bits != 0 ? asOperand(x, operand_bits) : stateRule(x), p.target.at + i, end - i);
        if (!outOfRange(magnitudeBits(x))) continue;
        HWY_ALIGN float lanes[kLanes];
        hn::Store(x, D(), lanes);
        for (uint64_t j = i; j < std::min(end, i + kLanes); ++j) checked(lanes[j - i], p.status, uint32_t(j));
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

HWY_EXPORT(applyRange);

// f32; the 16-bit formats, which few values have, in the scalar form.
void apply_rule(const ApplyRule& p, const Constants& c, Groups groups) {
    if (c.weight_format != kF32) return cpu::apply_rule(p, c, groups);
    uint64_t end = std::min<uint64_t>(groups.end * kWorkgroup, p.count);
    HWY_DYNAMIC_DISPATCH(applyRange)(p, c.operand_bits, groups.begin * kWorkgroup, end);
}

}  // namespace simd
}  // namespace v1
}  // namespace vkmoe
#endif
