#include "engine/cpu/language_rows.h"

namespace vkmoe {
inline namespace v1 {
namespace cpu {

void embed_tokens(const EmbedTokens& p, const Constants&, Groups groups) {
    uint64_t end = std::min<uint64_t>(groups.end * kWorkgroup, uint64_t{p.tokens} * p.model_dim);
    for (uint64_t i = groups.begin * kWorkgroup; i < end;) {
        const uint32_t token = uint32_t(i / p.model_dim), first = uint32_t(i % p.model_dim);
        const uint32_t* row = p.weight.at + panelWord(p.ids.at[token], 0, p.model_dim);
        for (uint32_t c = first; c < p.model_dim && i < end; ++c, ++i)
            p.x.at[i] = state_rule(uintBitsToFloat(row[uint64_t{c} * kPanel]));
    }
}

}  // namespace cpu
}  // namespace v1
}  // namespace vkmoe
