#include "engine/cpu/sums.h"
#include "engine/cpu/twin.h"

namespace vkmoe {
inline namespace v1 {
namespace cpu {
namespace {

float halfSquare(float difference) {
    float d = operand_rule(difference);
    return (d * d) * 0.5f;
}

}  // namespace

// One workgroup a token.
void squared_error(const SquaredError& p, const Constants&, Groups groups) {
    for (uint64_t token = groups.begin; token < std::min<uint64_t>(groups.end, p.tokens); ++token) {
        const uint64_t row = token * p.model_dim;
        const float *out = p.out_.at + row, *target = p.target.at + row;
        for (uint32_t d = 0; d < p.model_dim; ++d)
            p.grad_out.at[row + d] = state_rule(checked(out[d] - target[d], p.status, uint32_t(row) + d));
        float loss = sumR32(p.model_dim, [&](uint32_t d) { return halfSquare(out[d] - target[d]); });
        p.losses.at[token] = state_rule(checked(loss, p.status, uint32_t(row)));
    }
}

}  // namespace cpu
}  // namespace v1
}  // namespace vkmoe
