#include "host/host_memory.h"

#include <sys/mman.h>
#include <sys/sysinfo.h>
#include <tbb/parallel_for.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>

namespace vkmoe {
inline namespace v1 {
namespace {

constexpr size_t kLargePage = size_t{2} << 20;

}  // namespace

uint64_t hostMemory() {
    struct sysinfo info {};
    const uint64_t all = ::sysinfo(&info) == 0 ? uint64_t(info.totalram) * info.mem_unit : 0;
    return std::min(all, memoryLimit("/proc/self/cgroup", "/sys/fs/cgroup"));
}

// Lines are "number:controllers:path"; of version 2 number is 0 and controllers are empty. (Paths are strings: those of
// libstdc++ 12 free memory twice where an allocation fails.)
uint64_t memoryLimit(const std::string& groups, const std::string& mounted) {
    uint64_t least = UINT64_MAX;
    std::ifstream lines(groups);
    for (std::string line; std::getline(lines, line);) {
        const size_t first = line.find(':'), second = line.find(':', first + 1);
        if (second == line.npos) continue;
        const std::string controllers = line.substr(first + 1, second - first - 1);
        const bool version2 = controllers.empty();
        if (!version2 && controllers != "memory") continue;
        const std::string root = version2 ? mounted : mounted + "/memory";
        const char* file = version2 ? "/memory.max" : "/memory.limit_in_bytes";
        // A container may see its own group as the root, whatever the path says.
        for (std::string group = line.substr(second + 1);; group.resize(std::min(group.rfind('/'), group.size()))) {
            uint64_t limit = 0;
            if (std::ifstream(root + group + file) >> limit) least = std::min(least, limit);  // "max" is no number
            if (group.find('/') == group.npos) break;
        }
    }
    return least;
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
