// The weights of a depthwise convolution as vectors use them. Included once a target.
#if defined(VKMOE_SIMD_TAPS) == defined(HWY_TARGET_TOGGLE)
#ifdef VKMOE_SIMD_TAPS
#undef VKMOE_SIMD_TAPS
#else
#define VKMOE_SIMD_TAPS
#endif

#include "engine/cpu/simd/rows-inl.h"
#include "engine/cpu/simd/thread_memory.h"

HWY_BEFORE_NAMESPACE();
namespace vkmoe {
inline namespace v1 {
namespace simd {
namespace HWY_NAMESPACE {

// Every `step`-th value from `from` on; lanes from `count` on repeat the last.
HWY_INLINE V loadStrided(const float* from, uint32_t step, size_t count) {
    const DI di;
    VI lane = hn::Min(hn::Iota(di, 0), hn::Set(di, int32_t(std::min(count, kLanes)) - 1));
    return hn::GatherIndex(D(), from, hn::Mul(lane, hn::Set(di, int32_t(step))));
}

// weight [columns, width] by taps, as operands: what gathers cost is paid once, not for each token. The first `used`
// taps.
class Taps {
public:
    Taps(const float* weight, uint32_t columns, uint32_t width, uint32_t used)
        : weight_(weight),
          width_(width),
          used_(used),
          stride_(columns + kLanes),
          at_(threadMemory<Taps>(size_t{used} * stride_)) {}

    HWY_INLINE void load(uint32_t first, uint32_t last) {
        for (uint32_t c = first; c < last; c += kLanes)
            for (uint32_t j = 0; j < used_; ++j)
                hn::StoreU(operandRule(loadStrided(weight_ + uint64_t{c} * width_ + j, width_, last - c)), D(),
                           at_ + size_t{j} * stride_ + c);
    }

    // Tap j of the columns from c on.
    HWY_INLINE V at(uint32_t j, uint32_t c) const { return hn::LoadU(D(), at_ + size_t{j} * stride_ + c); }

private:
    const float* weight_;
    uint32_t width_, used_;
    size_t stride_;
    float* at_;
};

// Taps that one of the tokens of invocations [begin, end) uses: as many as rows that it may look at, with its own.
HWY_INLINE uint32_t usedTaps(uint64_t begin, uint64_t end, uint32_t columns, const uint32_t* others, uint32_t width) {
    const uint32_t* last = others + (end - 1) / columns + 1;
    return std::min(width, *std::max_element(others + begin / columns, last) + 1);
}

// body(taps, token, first, last) for the stretches of tokens' columns that invocations [begin, end) stand for, with the
// taps of these columns loaded. `others` as in usedTaps.
template <class Body>
HWY_INLINE void eachStretchWithTaps(uint64_t begin, uint64_t end, const float* weight, uint32_t columns, uint32_t width,
                                    const uint32_t* others, const Body& body) {
    if (begin >= end) return;
    Taps taps(weight, columns, width, usedTaps(begin, end, columns, others, width));
    const bool whole = end - begin >= columns;
    if (whole) taps.load(0, columns);
    eachStretch(begin, end, columns, [&](uint32_t token, uint32_t first, uint32_t last) HWY_ATTR {
        if (!whole) taps.load(first, last);
        body(taps, token, first, last);
    });
}

}  // namespace HWY_NAMESPACE
}  // namespace simd
}  // namespace v1
}  // namespace vkmoe
HWY_AFTER_NAMESPACE();

#endif
