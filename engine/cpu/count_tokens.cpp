#include "engine/cpu/twin.h"

namespace vkmoe {
inline namespace v1 {
namespace cpu {

void count_tokens(const CountTokens& p, const Constants&, Groups groups) {
    eachThread(groups, p.experts, [&](uint32_t e) {
        uint32_t before = p.counts.at[e], sum = before + p.offsets.at[e + 1] - p.offsets.at[e];
        p.counts.at[e] = sum < before ? 0xffffffffu : sum;
    });
}

}  // namespace cpu
}  // namespace v1
}  // namespace vkmoe
