#include "engine/cpu/language_rows.h"

namespace vkmoe {
inline namespace v1 {
namespace cpu {

// One workgroup a token.
void rms_norm_backward(const RmsNormBackward& p, const Constants&, Groups groups) {
    eachToken(groups, p.tokens, [&](uint32_t token) {
        const uint32_t row = token * p.model_dim;
        auto gradient = [&](uint32_t c) { return rms_gradient(p.weight.at[c], p.grad_y.at[row + c]); };
        float inverse = rms_inverse(p.roots.at[token]);
        float sum = sumR32(p.model_dim, [&](uint32_t c) { return rms_slope_term(gradient(c), p.x.at[row + c]); });
        float slope = rms_slope(sum, p.model_dim, inverse);
        for (uint32_t c = 0; c < p.model_dim; ++c) {
            float own = rms_backward(gradient(c), p.x.at[row + c], inverse, slope);
            p.grad_x.at[row + c] = state_rule(checked(p.residual.at[row + c] + own, p.status, row + c));
        }
    });
}

}  // namespace cpu
}  // namespace v1
}  // namespace vkmoe
