#include "host/host_memory.h"

#include <sys/mman.h>
#include <sys/sysinfo.h>
#include <tbb/parallel_for.h>
#include <unistd.h>

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

#ifdef MADV_POPULATE_WRITE
void backHostMemory(std::span<std::byte> memory) {
    const auto first = reinterpret_cast<uintptr_t>(memory.data()), page = uintptr_t(::sysconf(_SC_PAGESIZE));
    const uintptr_t begin = (first + page - 1) / page * page, end = (first + memory.size()) / page * page;
    if (begin >= end) return;
    constexpr uintptr_t kPiece = uintptr_t{16} << 20;  // that one thread backs at a time
    tbb::parallel_for(begin / kPiece, (end - 1) / kPiece + 1, [&](uintptr_t piece) {
        const uintptr_t from = std::max(begin, piece * kPiece), to = std::min(end, (piece + 1) * kPiece);
        (void)::madvise(reinterpret_cast<void*>(from), to - from, MADV_POPULATE_WRITE);
    });
}
#else
void backHostMemory(std::span<std::byte>) {}
#endif

}  // namespace v1
}  // namespace vkmoe
