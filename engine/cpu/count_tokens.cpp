#include "engine/cpu/twin.h"

namespace vkmoe {
inline namespace v1 {
namespace cpu {

void count_tokens(const CountTokens& p, const Constants&, Groups groups) {
    eachThread(groups, p.experts, [&](uint32_t e) { p.counts.at[e] += p.offsets.at[e + 1] - p.offsets.at[e]; });
}

}  // namespace cpu
}  // namespace v1
}  // namespace vkmoe
