#include "engine/cpu/router.h"

namespace vkmoe {
inline namespace v1 {
namespace cpu {

void route_topk(const RouteTopk& p, const Constants& c, Groups groups) {
    const TokenRange range = tokensOf(groups, c, p.tokens);
    Router router(p, c);
    std::vector<float> probabilities(p.experts), sigmoids(p.experts);
    for (uint64_t t = range.begin; t < range.end; ++t) {
        const float* logits = p.logits.at + t * p.experts;
        if (wantsProbabilities(c)) softmaxOf(logits, p.experts, probabilities.data());
        if (wantsSigmoids(c)) std::transform(logits, logits + p.experts, sigmoids.begin(), exact_sigmoid);
        router.route(static_cast<uint32_t>(t), {probabilities.data(), sigmoids.data()});
    }
}

}  // namespace cpu
}  // namespace v1
}  // namespace vkmoe
