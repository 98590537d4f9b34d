#include "engine/cpu/simd/epilogue.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/cpu/simd/epilogue.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "engine/cpu/panel.h"
#include "engine/cpu/simd/exact_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace vkmoe {
inline namespace v1 {
namespace simd {
namespace HWY_NAMESPACE {

template <uint32_t kActivation>
HWY_INLINE void storeActivated(const Epilogue& e, const float* gate, const float* up, const Constants& c, float limit,
                               float alpha) {
    const D d;
    const V limits = hn::Set(d, limit), alphas = hn::Set(d, alpha);
    for (uint32_t i = 0; i < e.count; i += kLanes) {
        V g = hn::LoadU(d, gate + i), u = hn::LoadU(d, up + i);
        V h = activation<kActivation>(g, u, limits, alphas);
        storeSome(asOperand(h, c.operand_bits), e.out + e.at + i, e.count - i);
        if (!outOfRange(largest(largest(magnitudeBits(g), u), h))) continue;
        HWY_ALIGN float hidden[kLanes];
        hn::Store(h, d, hidden);
        for (uint32_t j = i; j < std::min(e.count, i + uint32_t{kLanes}); ++j)
            checkHidden(gate[j], up[j], hidden[j - i], e.status, e.at + j);
    }
}

void hiddenRow(const Epilogue& e, const float* gate, const float* up, const Constants& c, float limit, float alpha) {
    switch (c.activation) {
        case kRelu:
            return storeActivated<kRelu>(e, gate, up, c, limit, alpha);
        case kSiluGlu:
            return storeActivated<kSiluGlu>(e, gate, up, c, limit, alpha);
        case kGeluGlu:
            return storeActivated<kGeluGlu>(e, gate, up, c, limit, alpha);
        default:
            return storeActivated<kClampedSwiglu>(e, gate, up, c, limit, alpha);
    }
}

void stateRow(const Epilogue& e, const float* totals) {
    const D d;
    for (uint32_t i = 0; i < e.count; i += kLanes) {
        V x = hn::LoadU(d, totals + i);
        storeSome(stateRule(x), e.out + e.at + i, e.count - i);
        if (!outOfRange(magnitudeBits(x))) continue;
        for (uint32_t j = i; j < std::min(e.count, i + uint32_t{kLanes}); ++j) checked(totals[j], e.status, e.at + j);
    }
}

void keptRow(float* out, const float* totals, uint32_t count) {
    for (uint32_t i = 0; i < count; i += kLanes) storeSome(stateRule(hn::LoadU(D(), totals + i)), out + i, count - i);
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

HWY_EXPORT(hiddenRow);
HWY_EXPORT(stateRow);
HWY_EXPORT(keptRow);

void storeHidden(const Epilogue& e, const float* gate, const float* up, const Constants& c, float limit, float alpha) {
    HWY_DYNAMIC_DISPATCH(hiddenRow)(e, gate, up, c, limit, alpha);
}
void storeState(const Epilogue& e, const float* totals) { HWY_DYNAMIC_DISPATCH(stateRow)(e, totals); }
void storeKept(float* out, const float* totals, uint32_t count) { HWY_DYNAMIC_DISPATCH(keptRow)(out, totals, count); }

}  // namespace simd
}  // namespace v1
}  // namespace vkmoe
#endif
