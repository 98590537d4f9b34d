// Softmaxes and sigmoids of a few rows of logits on vectors, with the bits of softmaxOf and exact_sigmoid.
#pragma once

#include "engine/cpu/softmax.h"
#include "engine/cpu/twin.h"

namespace vkmoe {
inline namespace v1 {
namespace simd {

constexpr uint32_t kSoftmaxRows = 16;  // most rows at a time: their sums are formed side by side

// Of `rows` rows [count] each, as softmaxOf does one; count above 0.
void softmaxRows(const float* logits, uint32_t rows, uint32_t count, float* probabilities, Softmax* found);

void sigmoids(const float* logits, size_t count, float* values);

// body(first token, how many) for the range's tokens, at most kSoftmaxRows at a time.
template <class Body>
void eachFewTokens(TokenRange range, const Body& body) {
    for (uint64_t t = range.begin; t < range.end; t += kSoftmaxRows)
        body(static_cast<uint32_t>(t), static_cast<uint32_t>(std::min<uint64_t>(kSoftmaxRows, range.end - t)));
}

}  // namespace simd
}  // namespace v1
}  // namespace vkmoe
