#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/cpu/simd/add_rows.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "engine/cpu/simd/rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace vkmoe {
inline namespace v1 {
namespace simd {
namespace HWY_NAMESPACE {

void addRange(const AddRows& p, uint64_t begin, uint64_t end) {
    for (uint64_t i = begin; i < end; i += kLanes) {
        size_t count = end - i;
        V sum = hn::Add(loadSome(p.a.at + i, count, 0.0f), loadSome(p.b.at + i, count, 0.0f));
        storeState(sum, p.sum.at, uint32_t(i), count, p.status);
    }
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

HWY_EXPORT(addRange);

void add_rows(const AddRows& p, const Constants&, Groups groups) {
    uint64_t end = std::min<uint64_t>(groups.end * kWorkgroup, p.count);
    HWY_DYNAMIC_DISPATCH(addRange)(p, groups.begin * kWorkgroup, end);
}

}  // namespace simd
}  // namespace v1
}  // namespace vkmoe
#endif
