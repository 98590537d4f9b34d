#include "engine/cpu/language_rows.h"

namespace vkmoe {
inline namespace v1 {
namespace cpu {
namespace {

struct Sum {
    float value = 0;
    bool any = false;

    void add(float term) {
        value = any ? value + term : term;
        any = true;
    }
};

// Tokens whose sequence has no row j before them are skipped.
Sum tokenSum(const CausalConvWeightGrad& p, uint32_t c, uint32_t j) {
    Sum total;
    for (uint32_t first = 0; first < p.tokens; first += kBlock) {
        Sum block;
        for (uint32_t t = first; t < std::min(first + kBlock, p.tokens); ++t) {
            if (p.positions.at[t] < j) continue;
            float grad_u = p.grad_u.at[uint64_t{t} * p.model_dim + c];
            block.add(operand_rule(grad_u) * p.n.at[uint64_t{t - j} * p.model_dim + c]);
        }
        if (block.any) total.add(block.value);
    }
    return total;
}

}  // namespace

void causal_conv_weight_grad(const CausalConvWeightGrad& p, const Constants&, Groups groups) {
    eachThread(groups, uint64_t{p.model_dim} * p.width, [&](uint32_t i) {
        uint32_t c = i % p.model_dim, j = i / p.model_dim, at = c * p.width + j;
        Sum total = tokenSum(p, c, j);
        if (total.any) p.grad.at[at] = state_rule(checked(p.grad.at[at] + total.value, p.status, at));
    });
}

}  // namespace cpu
}  // namespace v1
}  // namespace vkmoe
