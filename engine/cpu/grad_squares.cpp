#include "engine/cpu/sums.h"
#include "engine/cpu/twin.h"

namespace vkmoe {
inline namespace v1 {
namespace cpu {

void grad_squares(const GradSquares& p, const Constants&, Groups groups) {
    eachThread(groups, uint64_t{ceilDiv(p.count, 65536)} * kWorkgroup, [&](uint32_t i) {
        uint32_t first = i / kWorkgroup * 65536 + i % kWorkgroup;
        uint32_t terms = first < p.count ? std::min(ceilDiv(p.count - first, kWorkgroup), 1024u) : 0;
        p.squares.at[i] = sumR32(terms, [&](uint32_t k) {
            uint32_t at = first + kWorkgroup * k;
            float g = operand_rule(p.grads.at[at] * p.scale);
            return checked(g * g, p.status, at);
        });
    });
}

}  // namespace cpu
}  // namespace v1
}  // namespace vkmoe
