#include "host/host_memory.h"

#include <sys/mman.h>
#include <sys/sysinfo.h>

#include <algorithm>
#include <cstdlib>

namespace vkmoe {
inline namespace v1 {
namespace {

constexpr size_t kLargePage = size_t{2} << 20;

}  // namespace

uint64_t hostMemory() {
    struct sysinfo info {};
    return ::sysinfo(&info) == 0 ? uint64_t(info.totalram) * info.mem_unit : 0;
}

// Whole large pages alone: what lies beside the block stays as it was.
void* allocateHostMemory(uint64_t bytes, size_t alignment) {
    if (bytes < kLargePage) return std::aligned_alloc(alignment, bytes);
    void* block = nullptr;
    if (::posix_memalign(&block, std::max(alignment, kLargePage), bytes) != 0) return nullptr;
    (void)::madvise(block, bytes / kLargePage * kLargePage, MADV_HUGEPAGE);  // a wish
    return block;
}

}  // namespace v1
}  // namespace vkmoe
