#include "engine/cpu/language_rows.h"

namespace vkmoe {
inline namespace v1 {
namespace cpu {

// One workgroup a token.
void rms_norm(const RmsNorm& p, const Constants&, Groups groups) {
    eachToken(groups, p.tokens, [&](uint32_t token) {
        const uint32_t row = token * p.model_dim;
        float squares = sumR32(p.model_dim, [&](uint32_t c) { return rms_square(p.x.at[row + c]); });
        float root = rms_root(squares, p.model_dim, p.epsilon), inverse = rms_inverse(root);
        p.roots.at[token] = state_rule(checked(root, p.status, row));
        for (uint32_t c = 0; c < p.model_dim; ++c) {
            float y = rms_scaled(p.weight.at[c], p.x.at[row + c], inverse);
            p.y.at[row + c] = operand_rule(checked(y, p.status, row + c));
        }
    });
}

}  // namespace cpu
}  // namespace v1
}  // namespace vkmoe
