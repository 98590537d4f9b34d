#include "engine/cpu/sums.h"
#include "engine/cpu/twin.h"

namespace vkmoe {
inline namespace v1 {
namespace cpu {

// One workgroup a token.
void shared_gate(const SharedGate& p, const Constants&, Groups groups) {
    for (uint64_t token = groups.begin; token < std::min<uint64_t>(groups.end, p.tokens); ++token) {
        const float* x = p.x.at + token * p.model_dim;
        float total = sumR32(p.model_dim, [&](uint32_t k) { return x[k] * p.weight.at[k]; });
        p.gates.at[token] = state_rule(exact_sigmoid(checked(total, p.status, uint32_t(token))));
    }
}

}  // namespace cpu
}  // namespace v1
}  // namespace vkmoe
