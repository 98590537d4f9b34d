// The weights of a depthwise convolution as vectors use them. Included once a target.
#if defined(VKMOE_SIMD_TAPS) == defined(HWY_TARGET_TOGGLE)
#ifdef VKMOE_SIMD_TAPS
#undef VKMOE_SIMD_TAPS
#else
#define VKMOE_SIMD_TAPS
#endif

#include <vector>

#include "engine/cpu/simd/rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace vkmoe {
inline namespace v1 {
namespace simd {
namespace HWY_NAMESPACE {

// weight [columns, width] by taps, as operands: what gathers cost is paid once, not for each token.
class Taps {
public:
    Taps(const float* weight, uint32_t columns, uint32_t width)
        : weight_(weight), width_(width), stride_(columns + kLanes), at_(scratch()) {
        at_.resize(std::max(at_.size(), size_t{width} * stride_));
    }

    HWY_INLINE void load(uint32_t first, uint32_t last) {
        for (uint32_t c = first; c < last; c += kLanes)
            for (uint32_t j = 0; j < width_; ++j)
                hn::StoreU(operandRule(loadStrided(weight_ + uint64_t{c} * width_ + j, width_, last - c)), D(),
                           at_.data() + size_t{j} * stride_ + c);
    }

    // Tap j of the columns from c on.
    HWY_INLINE V at(uint32_t j, uint32_t c) const { return hn::LoadU(D(), at_.data() + size_t{j} * stride_ + c); }

private:
    // Kept by the thread: a kernel runs in many small ranges.
    static std::vector<float>& scratch() {
        thread_local std::vector<float> memory;
        return memory;
    }

    const float* weight_;
    uint32_t width_;
    size_t stride_;
    std::vector<float>& at_;
};

// body(token, first, last) for the stretches of tokens' columns that invocations [begin, end) stand for, with the taps
// of these columns loaded.
template <class Body>
HWY_INLINE void eachStretchWithTaps(uint64_t begin, uint64_t end, uint32_t columns, Taps& taps, const Body& body) {
    const bool whole = end - begin >= columns;
    if (whole) taps.load(0, columns);
    eachStretch(begin, end, columns, [&](uint32_t token, uint32_t first, uint32_t last) HWY_ATTR {
        if (!whole) taps.load(first, last);
        body(token, first, last);
    });
}

}  // namespace HWY_NAMESPACE
}  // namespace simd
}  // namespace v1
}  // namespace vkmoe
HWY_AFTER_NAMESPACE();

#endif
