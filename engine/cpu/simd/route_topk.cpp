#include "engine/cpu/router.h"
#include "engine/cpu/simd/softmax.h"
#include "engine/cpu/simd/thread_memory.h"

namespace vkmoe {
inline namespace v1 {
namespace simd {
namespace {

struct RouteProbabilities;  // whose memory
struct RouteSigmoids;

}  // namespace

void route_topk(const RouteTopk& p, const Constants& c, Groups groups) {
    Router router(p, c);
    float* probabilities = threadMemory<RouteProbabilities>(size_t{kSoftmaxRows} * p.experts);
    float* values = threadMemory<RouteSigmoids>(size_t{kSoftmaxRows} * p.experts);
    eachFewTokens(tokensOf(groups, c, p.tokens), [&](uint32_t first, uint32_t count) {
        const float* logits = p.logits.at + uint64_t{first} * p.experts;
        Softmax found[kSoftmaxRows];
        if (wantsProbabilities(c)) softmaxRows(logits, count, p.experts, probabilities, found);
        if (wantsSigmoids(c)) sigmoids(logits, size_t{count} * p.experts, values);
        for (uint32_t i = 0; i < count; ++i)
            router.route(first + i, {probabilities + size_t{i} * p.experts, values + size_t{i} * p.experts});
    });
}

}  // namespace simd
}  // namespace v1
}  // namespace vkmoe
