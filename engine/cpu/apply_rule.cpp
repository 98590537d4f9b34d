#include "engine/cpu/twin.h"

namespace vkmoe {
inline namespace v1 {
namespace cpu {

void apply_rule(const ApplyRule& p, const Constants& c, Groups groups) {
    eachThread(groups, p.count, [&](uint32_t i) {
        float x = checked(decodeElement(p.source.at, i, c.weight_format), p.status, i);
        p.target.at[i] = c.operand_bits != 0 ? as_operand(x, c.operand_bits) : state_rule(x);
    });
}

}  // namespace cpu
}  // namespace v1
}  // namespace vkmoe
