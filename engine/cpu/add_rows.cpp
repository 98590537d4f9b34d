#include "engine/cpu/twin.h"

namespace vkmoe {
inline namespace v1 {
namespace cpu {

void add_rows(const AddRows& p, const Constants&, Groups groups) {
    eachThread(groups, p.count,
               [&](uint32_t i) { p.sum.at[i] = state_rule(checked(p.a.at[i] + p.b.at[i], p.status, i)); });
}

}  // namespace cpu
}  // namespace v1
}  // namespace vkmoe
