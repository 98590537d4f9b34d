#include "shaders/adamw.h"

#include "engine/cpu/twin.h"

namespace vkmoe {
inline namespace v1 {
namespace cpu {

void adamw(const Adamw& p, const Constants& c, Groups groups) {
    eachThread(groups, p.count, [&](uint32_t i) {
        if (c.skip != 0 && p.touched.at[i / p.page_words] == 0) return;
        float g = adamw_gradient(p.grads.at[i], p.grad_scale, p.clip);
        float m = adamw_first(p.first.at[i], g, p.beta1, p.one_minus_beta1);
        float v = adamw_second(p.second.at[i], g, p.beta2, p.one_minus_beta2);
        float step = adamw_step(m, v, p.correction1, p.correction2, p.epsilon);
        float w = adamw_weight(p.weights.at[i], step, p.learning_rate, p.weight_decay);
        if (out_of_range(m) || out_of_range(v) || out_of_range(w)) flag(p.status, i);
        p.first.at[i] = m;
        p.second.at[i] = v;
        p.weights.at[i] = w;
    });
}

}  // namespace cpu
}  // namespace v1
}  // namespace vkmoe
