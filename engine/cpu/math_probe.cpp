#include "shaders/math_probe.h"

#include "engine/cpu/twin.h"

namespace vkmoe {
inline namespace v1 {
namespace cpu {

void math_probe(const MathProbe& p, const Constants&, Groups groups) {
    eachThread(groups, p.count, [&](uint32_t i) {
        uint32_t a = p.step != 0 ? p.first + i * p.step : p.a.at[i];
        p.result.at[i] = ::vkmoe::math_probe(p.function, a, p.step != 0 ? a : p.b.at[i]);
    });
}

}  // namespace cpu
}  // namespace v1
}  // namespace vkmoe
