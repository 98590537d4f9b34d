#include "engine/cpu/language_rows.h"

namespace vkmoe {
inline namespace v1 {
namespace cpu {

void embed_backward(const EmbedBackward& p, const Constants&, Groups groups) {
    eachThread(groups, uint64_t{p.distinct} * p.model_dim, [&](uint32_t thread) {
        uint32_t i = thread / p.model_dim, c = thread % p.model_dim, id = p.ids.at[i];
        uint32_t first = p.offsets.at[i], count = p.offsets.at[i + 1] - first;
        if (count == 0) return;
        float total = sumR32(
            count, [&](uint32_t j) { return p.grad_x.at[uint64_t{p.positions.at[first + j]} * p.model_dim + c]; });
        uint32_t& word = p.grad.at[panelWord(id, c, p.model_dim)];
        float grad = checked(uintBitsToFloat(word) + total, p.status, id * p.model_dim + c);
        word = floatBitsToUint(state_rule(grad));
    });
}

}  // namespace cpu
}  // namespace v1
}  // namespace vkmoe
