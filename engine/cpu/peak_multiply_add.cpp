#include "engine/cpu/twin.h"

namespace vkmoe {
inline namespace v1 {
namespace cpu {

void peak_multiply_add(const PeakMultiplyAdd& p, const Constants&, Groups groups) {
    eachThread(groups, p.threads, [&](uint32_t i) {
        float w = uintBitsToFloat(0x3f000000u + (i & 0xffffu)), x = 1;
        float a = x, b = w, c = x + w, d = x + c;
        for (uint32_t n = 0; n < p.iterations; ++n) {
            a = x + a * w;
            b = x + b * w;
            c = x + c * w;
            d = x + d * w;
        }
        p.result.at[i] = ((a + b) + (c + d)) + ((a + b) + (c + d));  // the four components of a chain are alike
    });
}

}  // namespace cpu
}  // namespace v1
}  // namespace vkmoe
