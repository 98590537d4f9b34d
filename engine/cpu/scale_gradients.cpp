#include "engine/cpu/twin.h"
#include "shaders/float16.h"

namespace vkmoe {
inline namespace v1 {
namespace cpu {

void scale_gradients(const ScaleGradients& p, const Constants& c, Groups groups) {
    eachThread(groups, p.count, [&](uint32_t i) {
        float g = state_rule(p.grads.at[i] * p.before);
        if (c.weight_format == kF16) g = through_float16(g);
        p.grads.at[i] = state_rule(g * p.after);
    });
}

}  // namespace cpu
}  // namespace v1
}  // namespace vkmoe
