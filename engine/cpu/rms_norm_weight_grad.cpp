#include "engine/cpu/language_rows.h"

namespace vkmoe {
inline namespace v1 {
namespace cpu {

void rms_norm_weight_grad(const RmsNormWeightGrad& p, const Constants&, Groups groups) {
    if (p.tokens == 0) return;
    eachThread(groups, p.model_dim, [&](uint32_t c) {
        float total = sumR32(p.tokens, [&](uint32_t t) {
            uint64_t at = uint64_t{t} * p.model_dim + c;
            return rms_weight_term(p.grad_y.at[at], p.x.at[at], rms_inverse(p.roots.at[t]));
        });
        p.grad.at[c] = state_rule(checked(p.grad.at[c] + total, p.status, c));
    });
}

}  // namespace cpu
}  // namespace v1
}  // namespace vkmoe
