#include "engine/cpu/twin.h"

namespace vkmoe {
inline namespace v1 {
namespace cpu {

void bin_count(const BinTokens& p, const Constants&, Groups groups) {
    eachThread(groups, p.assignments, [&](uint32_t a) {
        if (p.selected.at[a] >= p.experts) return;
        uint32_t& count = p.counts.at[uint64_t{a / kBinChunk} * p.experts + p.selected.at[a]];
        std::atomic_ref(count).fetch_add(1, std::memory_order_relaxed);
    });
}

}  // namespace cpu
}  // namespace v1
}  // namespace vkmoe
