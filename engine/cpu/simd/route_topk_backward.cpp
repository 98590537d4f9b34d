#include "engine/cpu/router_backward.h"
#include "engine/cpu/simd/softmax.h"
#include "engine/cpu/simd/thread_memory.h"

namespace vkmoe {
inline namespace v1 {
namespace simd {
namespace {

struct BackwardProbabilities;  // whose memory

}  // namespace

void route_topk_backward(const RouteTopkBackward& p, const Constants& c, Groups groups) {
    RouterBackward router(p, c);
    float* probabilities = threadMemory<BackwardProbabilities>(size_t{kSoftmaxRows} * p.experts);
    eachFewTokens(tokensOf(groups, c, p.tokens), [&](uint32_t first, uint32_t count) {
        const float* logits = p.logits.at + uint64_t{first} * p.experts;
        Softmax found[kSoftmaxRows];
        if (c.score == kSoftmax) softmaxRows(logits, count, p.experts, probabilities, found);
        for (uint32_t i = 0; i < count; ++i) router.differentiate(first + i, probabilities + size_t{i} * p.experts);
    });
}

}  // namespace simd
}  // namespace v1
}  // namespace vkmoe
