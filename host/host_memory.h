// The machine's own memory.
#pragma once

#include <sys/sysinfo.h>

#include <cstdint>

namespace vkmoe {
inline namespace v1 {

// Bytes of RAM; 0 if the system does not say.
inline uint64_t hostMemory() {
    struct sysinfo info {};
    return ::sysinfo(&info) == 0 ? uint64_t(info.totalram) * info.mem_unit : 0;
}

}  // namespace v1
}  // namespace vkmoe
