#include "engine/cpu/twin.h"
#include "shaders/random.h"

namespace vkmoe {
inline namespace v1 {
namespace cpu {

void add_noise(const AddNoise& p, const Constants&, Groups groups) {
    eachThread(groups, uint64_t{p.tokens} * p.experts, [&](uint32_t i) {
        float u = random_signed(p.seed, p.first_token + i / p.experts, i % p.experts);
        p.logits.at[i] = state_rule(checked(p.logits.at[i] + u * p.noise_std, p.status, i));
    });
}

}  // namespace cpu
}  // namespace v1
}  // namespace vkmoe
