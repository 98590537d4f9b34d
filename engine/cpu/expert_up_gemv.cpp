#include "engine/cpu/expert_up.h"

namespace vkmoe {
inline namespace v1 {
namespace cpu {

void expert_up_gemv(const ExpertUp& p, const Constants& c, Groups groups) {
    eachRowOutput(p, c, groups, p.hidden_dim,
                  [&](const uint32_t* page, uint32_t row, uint32_t output) { upOutput(p, c, page, row, output); });
}

}  // namespace cpu
}  // namespace v1
}  // namespace vkmoe
