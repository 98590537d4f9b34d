#include "engine/cpu/panel.h"

namespace vkmoe {
inline namespace v1 {
namespace cpu {

void router_logits(const RouterLogits& p, const Constants& c, Groups groups) {
    uint32_t panels = ceilDiv(p.experts, kPanel);
    eachThread(groups, uint64_t{p.tokens} * panels * kPanel, [&](uint32_t i) {
        uint32_t lane = i % kPanel, panel = i / kPanel % panels, token = i / kPanel / panels,
                 expert = panel * kPanel + lane;
        if (expert >= p.experts) return;
        const float* x = p.x.at + uint64_t{token} * p.model_dim;
        const uint32_t* weights = p.weight.at + uint64_t{panel} * p.model_dim * kPanel;
        float total = panelDot(x, weights, lane, p.model_dim, kF32, c.bias != 0 ? p.bias.at + expert : nullptr);
        uint32_t at = token * p.experts + expert;
        p.logits.at[at] = state_rule(checked(total, p.status, at));
    });
}

}  // namespace cpu
}  // namespace v1
}  // namespace vkmoe
