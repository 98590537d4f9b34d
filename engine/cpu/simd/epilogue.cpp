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

// A row in which something is out of range, or its padding is: counts the values that are.
template <uint32_t kActivation>
HWY_NOINLINE void checkRow(const Epilogue& e, uint32_t at, const float* gate, const float* up, V limits, V alphas) {
    for (uint32_t i = 0; i < e.count; i += kLanes) {
        HWY_ALIGN float hidden[kLanes];
        hn::Store(activation<kActivation>(hn::LoadU(D(), gate + i), hn::LoadU(D(), up + i), limits, alphas), D(),
                  hidden);
        for (uint32_t j = i; j < std::min(e.count, i + uint32_t{kLanes}); ++j)
            checkHidden(gate[j], up[j], hidden[j - i], e.status, at + j);
    }
}

template <uint32_t kActivation>
HWY_INLINE void storeActivated(const Epilogue& e, Totals gate, Totals up, const Constants& c, float limit,
                               float alpha) {
    const D d;
    const V limits = hn::Set(d, limit), alphas = hn::Set(d, alpha);
    for (uint32_t row = 0, at = e.at; row < e.rows; ++row, at += e.width) {
        VI seen = hn::Zero(DI());
        for (uint32_t i = 0; i < e.count; i += kLanes) {
            V g = hn::LoadU(d, gate[row] + i), u = hn::LoadU(d, up[row] + i);
            V h = activation<kActivation>(g, u, limits, alphas);
            storeSome(asOperand(h, c.operand_bits), e.out + at + i, e.count - i);
            seen = largest(largest(largest(seen, g), u), h);
        }
        if (outOfRange(seen)) checkRow<kActivation>(e, at, gate[row], up[row], limits, alphas);
    }
}

void hiddenTile(const Epilogue& e, Totals gate, Totals up, const Constants& c, float limit, float alpha) {
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

void stateTile(const Epilogue& e, Totals totals) {
    for (uint32_t row = 0, at = e.at; row < e.rows; ++row, at += e.width) {
        VI seen = hn::Zero(DI());
        for (uint32_t i = 0; i < e.count; i += kLanes) {
            V x = hn::LoadU(D(), totals[row] + i);
            storeSome(stateRule(x), e.out + at + i, e.count - i);
            seen = largest(seen, x);
        }
        if (!outOfRange(seen)) continue;
        for (uint32_t i = 0; i < e.count; ++i) checked(totals[row][i], e.status, at + i);
    }
}

void keptTile(const Epilogue& e, Totals totals) {
    for (uint32_t row = 0, at = e.at; row < e.rows; ++row, at += e.width)
        for (uint32_t i = 0; i < e.count; i += kLanes)
            storeSome(stateRule(hn::LoadU(D(), totals[row] + i)), e.out + at + i, e.count - i);
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

HWY_EXPORT(hiddenTile);
HWY_EXPORT(stateTile);
HWY_EXPORT(keptTile);

void storeHidden(const Epilogue& e, Totals gate, Totals up, const Constants& c, float limit, float alpha) {
    HWY_DYNAMIC_DISPATCH(hiddenTile)(e, gate, up, c, limit, alpha);
}
void storeState(const Epilogue& e, Totals totals) { HWY_DYNAMIC_DISPATCH(stateTile)(e, totals); }
void storeKept(const Epilogue& e, Totals totals) { HWY_DYNAMIC_DISPATCH(keptTile)(e, totals); }

}  // namespace simd
}  // namespace v1
}  // namespace vkmoe
#endif
