#include "engine/cpu/language_rows.h"

namespace vkmoe {
inline namespace v1 {
namespace cpu {

void embed_tokens(const EmbedTokens& p, const Constants&, Groups groups) {
    eachThread(groups, uint64_t{p.tokens} * p.model_dim, [&](uint32_t i) {
        uint32_t id = p.ids.at[i / p.model_dim];
        p.x.at[i] = state_rule(uintBitsToFloat(p.weight.at[panelWord(id, i % p.model_dim, p.model_dim)]));
    });
}

}  // namespace cpu
}  // namespace v1
}  // namespace vkmoe
