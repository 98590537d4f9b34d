#include "engine/cpu/simd/softmax.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/cpu/simd/softmax.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "engine/cpu/simd/exact_math-inl.h"
#include "engine/cpu/simd/rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace vkmoe {
inline namespace v1 {
namespace simd {
namespace HWY_NAMESPACE {

// The largest logit of a row; NaN where one is not finite.
HWY_INLINE float largestFinite(const float* logits, uint32_t count) {
    V most = hn::Set(D(), logits[0]);
    VI seen = hn::Zero(DI());
    for (uint32_t i = 0; i < count; i += kLanes) {
        V x = loadSome(logits + i, count - i, logits[0]);
        most = hn::Max(most, x);
        seen = largest(seen, x);
    }
    if (!hn::AllFalse(DI(), hn::Gt(seen, hn::Set(DI(), 0x7f7fffff)))) return canonical_nan();
    return hn::GetLane(hn::MaxOfLanes(D(), most));
}

// Terms of a sum that lie in memory, [rows][columns].
struct StoredTerms {
    const float* terms;
    uint32_t columns;

    HWY_INLINE V at(uint32_t row, uint32_t column, size_t count) const {
        return loadSome(terms + size_t{row} * columns + column, count, 0.0f);
    }
};

// Terms divided by their sum; false: a quotient is too small for the processor's division (see divide).
HWY_INLINE bool divideRow(float* terms, uint32_t count, float sum) {
    const V total = hn::Set(D(), sum);
    for (uint32_t i = 0; i < count; i += kLanes) {
        V e = loadSome(terms + i, count - i, 1.0f), q = hn::Div(e, total);
        if (!hn::AllFalse(D(), hn::AndNot(below(e, 1), below(q, 0x01000000)))) return false;
        storeSome(q, terms + i, count - i);
    }
    return true;
}

void rowsSoftmax(const float* logits, uint32_t rows, uint32_t count, float* probabilities, Softmax* found) {
    float sums[kSoftmaxRows];
    bool plain[kSoftmaxRows];
    for (uint32_t row = 0; row < rows; ++row) {
        const float *from = logits + size_t{row} * count, most = largestFinite(from, count);
        float* to = probabilities + size_t{row} * count;
        plain[row] = !is_nan(most);
        found[row].largest = most;
        for (uint32_t i = 0; plain[row] && i < count; i += kLanes)
            storeSome(exactExp(hn::Sub(loadSome(from + i, count - i, most), hn::Set(D(), most))), to + i, count - i);
    }
    rowSums(StoredTerms{probabilities, count}, rows, count, sums);
    for (uint32_t row = 0; row < rows; ++row) {
        float* to = probabilities + size_t{row} * count;
        found[row].sum = sums[row];
        if (!plain[row] || !divideRow(to, count, sums[row]))
            found[row] = softmaxOf(logits + size_t{row} * count, count, to);
    }
}

void allSigmoids(const float* logits, size_t count, float* values) {
    for (size_t i = 0; i < count; i += kLanes)
        storeSome(exactSigmoid(loadSome(logits + i, count - i, 0.0f)), values + i, count - i);
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

HWY_EXPORT(rowsSoftmax);
HWY_EXPORT(allSigmoids);

void softmaxRows(const float* logits, uint32_t rows, uint32_t count, float* probabilities, Softmax* found) {
    HWY_DYNAMIC_DISPATCH(rowsSoftmax)(logits, rows, count, probabilities, found);
}
void sigmoids(const float* logits, size_t count, float* values) {
    HWY_DYNAMIC_DISPATCH(allSigmoids)(logits, count, values);
}

}  // namespace simd
}  // namespace v1
}  // namespace vkmoe
#endif
