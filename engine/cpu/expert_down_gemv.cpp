#include "engine/cpu/expert_down.h"

namespace vkmoe {
inline namespace v1 {
namespace cpu {

void expert_down_gemv(const ExpertDown& p, const Constants& c, Groups groups) {
    eachRowOutput(p, c, groups, p.model_dim,
                  [&](const uint32_t* page, uint32_t row, uint32_t output) { downOutput(p, c, page, row, output); });
}

}  // namespace cpu
}  // namespace v1
}  // namespace vkmoe
