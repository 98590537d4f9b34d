#include "engine/cpu/twin.h"

namespace vkmoe {
inline namespace v1 {
namespace cpu {

void peak_multiply_add(const PeakMultiplyAdd& p, const Constants&, Groups groups) {
    eachThread(groups, p.threads, [&](uint32_t i) {
        float w = uintBitsToFloat(0x3f000000u + (i & 0xffffu)), x = 1, total = 0;
        for (uint32_t j = 0; j < kPeakChains; ++j) {
            float s = uintBitsToFloat(0x3f800000u + j * 0x80000u);
            for (uint32_t n = 0; n < p.iterations; ++n) s = x + s * w;
            total = j == 0 ? s : total + s;
        }
        p.result.at[i] = total;
    });
}

}  // namespace cpu
}  // namespace v1
}  // namespace vkmoe
