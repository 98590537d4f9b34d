#include "engine/cpu/simd/packed_rows.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/cpu/simd/packed_rows.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "engine/cpu/simd/vectors-inl.h"

HWY_BEFORE_NAMESPACE();
namespace vkmoe {
inline namespace v1 {
namespace simd {
namespace HWY_NAMESPACE {

template <uint32_t kWidth>
void packWidth(const float* const* rows, uint32_t count, uint32_t cols, float* to, size_t step) {
    const D d;
    for (uint32_t row = 0; row < count; ++row) {
        const float* from = rows[row];
        float* out = to + size_t{row} * kWidth;
        uint32_t k = 0;
        for (; k + kWidth <= cols; k += kWidth, out += step) {
            VKMOE_UNROLL
            for (size_t i = 0; i < kWidth; i += kLanes) hn::Store(hn::LoadU(d, from + k + i), d, out + i);
        }
        for (; k < cols; k += kLanes, out += kLanes) storeSome(loadSome(from + k, cols - k, 0.0f), out, cols - k);
    }
}

void packValues(const float* const* rows, uint32_t count, uint32_t cols, uint32_t width, float* to, size_t step) {
    width == kBlock ? packWidth<kBlock>(rows, count, cols, to, step)
                    : packWidth<2 * kBlock>(rows, count, cols, to, step);
}

void packRounded(const float* const* rows, uint32_t count, uint32_t cols, uint32_t width, uint32_t bits, float* to) {
    for (uint32_t row = 0; row < count; ++row, to += width) {
        const float* from = rows[row];
        uint32_t k = 0;
        for (; k + kLanes <= cols; k += kLanes) hn::Store(asOperand(hn::LoadU(D(), from + k), bits), D(), to + k);
        if (k < cols) storeSome(asOperand(loadSome(from + k, cols - k, 0.0f), bits), to + k, cols - k);
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

HWY_EXPORT(packValues);
HWY_EXPORT(packRounded);

void packRows(const float* const* rows, uint32_t count, uint32_t cols, uint32_t width, float* to, size_t step) {
    HWY_DYNAMIC_DISPATCH(packValues)(rows, count, cols, width, to, step);
}

void packOperands(const float* const* rows, uint32_t count, uint32_t cols, uint32_t width, uint32_t bits, float* to) {
    HWY_DYNAMIC_DISPATCH(packRounded)(rows, count, cols, width, bits, to);
}

}  // namespace simd
}  // namespace v1
}  // namespace vkmoe
#endif
