#include "engine/cpu/router_backward.h"

namespace vkmoe {
inline namespace v1 {
namespace cpu {

void route_topk_backward(const RouteTopkBackward& p, const Constants& c, Groups groups) {
    const uint64_t group_tokens = kWorkgroup / c.lanes;
    RouterBackward router(p, c);
    std::vector<float> probabilities(p.experts);
    for (uint64_t t = groups.begin * group_tokens; t < std::min<uint64_t>(groups.end * group_tokens, p.tokens); ++t) {
        if (c.score == kSoftmax) softmaxOf(p.logits.at + t * p.experts, p.experts, probabilities.data());
        router.differentiate(static_cast<uint32_t>(t), probabilities.data());
    }
}

}  // namespace cpu
}  // namespace v1
}  // namespace vkmoe
