#include "engine/cpu/grad_panels.h"

namespace vkmoe {
inline namespace v1 {
namespace cpu {

void router_logits_backward_lanes(const RouterLogitsBackward& p, const Constants&, Groups groups) {
    U32 page = p.weight;
    expert_down_backward_lanes(asDense(p, &page), {.weight_format = kF32, .dense = 1}, groups);
}

}  // namespace cpu
}  // namespace v1
}  // namespace vkmoe
