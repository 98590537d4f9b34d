#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/cpu/simd/embed_backward.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "engine/cpu/language_rows.h"
#include "engine/cpu/simd/rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace vkmoe {
inline namespace v1 {
namespace simd {
namespace HWY_NAMESPACE {

// Sum of columns [c, c + count) over an id's rows [first, end) of positions.
HWY_INLINE V rowsSum(const EmbedBackward& p, uint32_t first, uint32_t end, uint32_t c, size_t count) {
    V total = minusZero();
    for (uint32_t j0 = first; j0 < end; j0 += kBlock) {
        V s = minusZero();
        for (uint32_t j = j0; j < std::min(j0 + kBlock, end); ++j)
            s = hn::Add(s, loadSome(p.grad_x.at + uint64_t{p.positions.at[j]} * p.model_dim + c, count, 0.0f));
        total = hn::Add(total, s);
    }
    return total;
}

// Columns [first, last) of distinct id `i`; in a panel they are kPanel words apart.
HWY_INLINE void addRows(const EmbedBackward& p, uint32_t i, uint32_t first, uint32_t last) {
    const uint32_t id = p.ids.at[i], from = p.offsets.at[i], to = p.offsets.at[i + 1];
    if (from == to) return;
    HWY_ALIGN float lanes[kLanes];
    for (uint32_t c = first; c < last; c += kLanes) {
        size_t count = std::min<size_t>(kLanes, last - c);
        uint32_t* words = p.grad.at + panelWord(id, c, p.model_dim);
        for (size_t k = 0; k < kLanes; ++k) lanes[k] = k < count ? uintBitsToFloat(words[k * kPanel]) : 0.0f;
        V grad = hn::Add(hn::Load(D(), lanes), rowsSum(p, from, to, c, count));
        checkSome(grad, count, p.status, id * p.model_dim + c);
        hn::Store(stateRule(grad), D(), lanes);
        for (size_t k = 0; k < count; ++k) words[k * kPanel] = floatBitsToUint(lanes[k]);
    }
}

void embedRange(const EmbedBackward& p, uint64_t begin, uint64_t end) {
    eachStretch(begin, end, p.model_dim,
                [&](uint32_t i, uint32_t first, uint32_t last) HWY_ATTR { addRows(p, i, first, last); });
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

HWY_EXPORT(embedRange);

void embed_backward(const EmbedBackward& p, const Constants&, Groups groups) {
    uint64_t end = std::min<uint64_t>(groups.end * kWorkgroup, uint64_t{p.distinct} * p.model_dim);
    HWY_DYNAMIC_DISPATCH(embedRange)(p, groups.begin * kWorkgroup, end);
}

}  // namespace simd
}  // namespace v1
}  // namespace vkmoe
#endif
