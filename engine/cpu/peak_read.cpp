#include "engine/cpu/twin.h"

namespace vkmoe {
inline namespace v1 {
namespace cpu {

void peak_read(const PeakRead& p, const Constants&, Groups groups) {
    for (uint64_t group = groups.begin; group < std::min<uint64_t>(groups.end, p.threads / kWorkgroup); ++group) {
        const uint32_t* source = p.source.at + group * p.steps * kWorkgroup;
        uint32_t bits[kWorkgroup] = {};
        for (uint32_t k = 0; k < p.steps; ++k)
            for (uint32_t lane = 0; lane < kWorkgroup; ++lane) bits[lane] ^= source[uint64_t{k} * kWorkgroup + lane];
        std::copy_n(bits, kWorkgroup, p.result.at + group * kWorkgroup);
    }
}

}  // namespace cpu
}  // namespace v1
}  // namespace vkmoe
