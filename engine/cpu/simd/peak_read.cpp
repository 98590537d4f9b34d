// Four groups at a time, each a stream of its own: the processor fetches several streams faster than one.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/cpu/simd/peak_read.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "engine/cpu/simd/unroll.h"
#include "engine/cpu/twin.h"

HWY_BEFORE_NAMESPACE();
namespace vkmoe {
inline namespace v1 {
namespace simd {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using D = hn::CappedTag<uint32_t, 16>;
constexpr uint32_t kLanes = hn::MaxLanes(D());

constexpr uint32_t kVectors = kWorkgroup / kLanes;
constexpr uint32_t kStreams = kLanes == 16 ? 4 : 1;  // as the registers allow

// Groups [group, group + kGroups).
template <uint32_t kGroups>
HWY_INLINE void readStreams(const PeakRead& p, uint64_t group) {
    const D d;
    const uint32_t* source = p.source.at + group * p.steps * kWorkgroup;
    const uint64_t apart = uint64_t{p.steps} * kWorkgroup;
    hn::Vec<D> bits[kGroups][kVectors];
    for (auto& stream : bits)
        for (auto& vector : stream) vector = hn::Zero(d);
    for (uint64_t k = 0; k < p.steps; ++k, source += kWorkgroup) {
        VKMOE_UNROLL
        for (uint32_t g = 0; g < kGroups; ++g) {
            VKMOE_UNROLL
            for (uint32_t v = 0; v < kVectors; ++v)
                bits[g][v] = hn::Xor(bits[g][v], hn::LoadU(d, source + g * apart + v * kLanes));
        }
    }
    for (uint32_t g = 0; g < kGroups; ++g)
        for (uint32_t v = 0; v < kVectors; ++v)
            hn::StoreU(bits[g][v], d, p.result.at + (group + g) * kWorkgroup + v * kLanes);
}

void readGroups(const PeakRead& p, uint64_t group, uint64_t end) {
    for (; group + kStreams <= end; group += kStreams) readStreams<kStreams>(p, group);
    for (; group < end; ++group) readStreams<1>(p, group);
}

}  // namespace HWY_NAMESPACE
}  // namespace simd
}  // namespace v1
}  // namespace vkmoe
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace vkmoe {
inline namespace v1 {
namespace simd {

HWY_EXPORT(readGroups);

void peak_read(const PeakRead& p, const Constants&, Groups groups) {
    HWY_DYNAMIC_DISPATCH(readGroups)(p, groups.begin, std::min<uint64_t>(groups.end, p.threads / kWorkgroup));
}

}  // namespace simd
}  // namespace v1
}  // namespace vkmoe
#endif
