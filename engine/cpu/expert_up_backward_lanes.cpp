#include "engine/cpu/grad_panels.h"

namespace vkmoe {
inline namespace v1 {
namespace cpu {

void expert_up_backward_lanes(const ExpertUpBackward& p, const Constants& c, Groups groups) {
    eachTileOutput(p, c, groups, p.model_dim, kLanesOutputs,
                   [&](const uint32_t* page, uint32_t row, uint32_t output) { upGradient(p, c, page, row, output); });
}

}  // namespace cpu
}  // namespace v1
}  // namespace vkmoe
