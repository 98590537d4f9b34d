#include "engine/cpu/expert_up.h"

namespace vkmoe {
inline namespace v1 {
namespace cpu {

void expert_up(const ExpertUp& p, const Constants& c, Groups groups) {
    eachTileOutput(p, c, groups, p.hidden_dim, kPanel * kTilePanels,
                   [&](const uint32_t* page, uint32_t row, uint32_t output) { upOutput(p, c, page, row, output); });
}

}  // namespace cpu
}  // namespace v1
}  // namespace vkmoe
