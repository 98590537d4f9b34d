#include "engine/cpu/expert_weight_grad.h"

namespace vkmoe {
inline namespace v1 {
namespace cpu {

void expert_weight_grad(const ExpertWeightGrad& p, const Constants& c, Groups groups) {
    addWeightGradients(p, c, groups, kPanel * kTilePanels);
}

}  // namespace cpu
}  // namespace v1
}  // namespace vkmoe
