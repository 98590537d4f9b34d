#include "engine/cpu/grad_panels.h"

namespace vkmoe {
inline namespace v1 {
namespace cpu {

void expert_down_backward(const ExpertDownBackward& p, const Constants& c, Groups groups) {
    eachTileOutput(p, c, groups, p.hidden_dim, kPanel * kTilePanels,
                   [&](const uint32_t* page, uint32_t row, uint32_t output) { downGradient(p, c, page, row, output); });
}

}  // namespace cpu
}  // namespace v1
}  // namespace vkmoe
