#include "engine/cpu/twin.h"

namespace vkmoe {
inline namespace v1 {
namespace cpu {

void bin_tokens(const BinTokens& p, const Constants&, Groups groups) {
    eachThread(groups, p.assignments, [&](uint32_t a) {
        uint32_t chunk = a / kBinChunk, expert = p.selected.at[a];
        if (expert >= p.experts) {
            p.slot_of.at[a] = kAbsent;
            return;
        }
        uint32_t slot = p.counts.at[uint64_t{chunk} * p.experts + expert];
        for (uint32_t other = chunk * kBinChunk; other < a; ++other) slot += p.selected.at[other] == expert ? 1 : 0;
        p.token_of.at[slot] = a / p.top_k;
        p.slot_of.at[a] = slot;
    });
}

}  // namespace cpu
}  // namespace v1
}  // namespace vkmoe
