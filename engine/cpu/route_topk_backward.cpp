#include "engine/cpu/router_backward.h"

namespace vkmoe {
inline namespace v1 {
namespace cpu {

void route_topk_backward(const RouteTopkBackward& p, const Constants& c, Groups groups) {
    const TokenRange range = tokensOf(groups, c, p.tokens);
    RouterBackward router(p, c);
    std::vector<float> probabilities(p.experts);
    for (uint64_t t = range.begin; t < range.end; ++t) {
        if (c.score == kSoftmax) softmaxOf(p.logits.at + t * p.experts, p.experts, probabilities.data());
        router.differentiate(static_cast<uint32_t>(t), probabilities.data());
    }
}

}  // namespace cpu
}  // namespace v1
}  // namespace vkmoe
