#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/cpu/simd/round_panels.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "engine/cpu/simd/vectors-inl.h"
#include "engine/cpu/twin.h"

HWY_BEFORE_NAMESPACE();
namespace vkmoe {
inline namespace v1 {
namespace simd {
namespace HWY_NAMESPACE {

// bf16_encode of finite values, then the operand rule of bf16: the code in the high half of the word.
HWY_INLINE VU roundedHigh(VU bits) {
    const DU du;
    VU odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1u));
    VU high = hn::And(hn::Add(hn::Add(bits, hn::Set(du, 0x7fffu)), odd), hn::Set(du, 0xffff0000u));
    return hn::BitCast(du, zeroBelow(hn::BitCast(D(), high), 0x23800000));
}

// One row of 16 target words: the columns at `source` and, if there is one, at source + 16.
void roundRow(const uint32_t* source, bool odd_column, uint32_t* target) {
    const DU du;
    for (size_t lane = 0; lane < kPanel; lane += kLanes) {
        VU word = hn::ShiftRight<16>(roundedHigh(hn::LoadU(du, source + lane)));
        if (odd_column) word = hn::Or(word, roundedHigh(hn::LoadU(du, source + kPanel + lane)));
        hn::StoreU(word, du, target + lane);
    }
}

// Rows [begin, end) of 16 target words, counted over all pages.
void roundRows(const RoundPanels& p, uint64_t begin, uint64_t end) {
    const uint32_t steps = ceilDiv(p.cols, 2), rows = ceilDiv(p.rows, kPanel) * steps;  // of a page
    for (uint64_t i = begin; i < end; ++i) {
        auto page = p.first_page + uint32_t(i / rows), within = uint32_t(i % rows);
        uint32_t step = within % steps, column = within / steps * p.cols + 2 * step;
        roundRow(p.source.at[page].at + p.source_weight + size_t{column} * kPanel, 2 * step + 1 < p.cols,
                 p.target.at[page].at + p.target_weight + size_t{within} * kPanel);
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

HWY_EXPORT(roundRows);

void round_panels(const RoundPanels& p, const Constants&, Groups groups) {
    constexpr uint64_t kRows = kWorkgroup / kPanel;  // of a group
    uint64_t rows = uint64_t{p.pages} * ceilDiv(p.rows, kPanel) * ceilDiv(p.cols, 2);
    HWY_DYNAMIC_DISPATCH(roundRows)(p, groups.begin * kRows, std::min(groups.end * kRows, rows));
}

}  // namespace simd
}  // namespace v1
}  // namespace vkmoe
#endif
