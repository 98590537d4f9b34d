// The machine's own memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace vkmoe {
inline namespace v1 {

// Bytes of RAM that this process may use: the machine's, or what its control group has; 0 if the system does not say.
uint64_t hostMemory();

// The least limit of the control groups that the file `groups` lists (as /proc/self/cgroup does), and of those above
// them; UINT64_MAX if there is none. `mounted`: where groups are mounted.
uint64_t memoryLimit(const std::string& groups, const std::string& mounted);

// Memory for std::free, not initialised; null if there is none. `alignment`: a power of two; `bytes`: a multiple of it.
// The system is asked to back large blocks with large pages, where it has them: first use of a small page can take
// microseconds, on a machine inside a machine, and finding many of them is slow everywhere.
void* allocateHostMemory(uint64_t bytes, size_t alignment);

// Has the system back `memory` now, on all threads, so that no later use waits for that; what is in it stays. A wish: a
// system without the means does it at first use, as ever.
void backHostMemory(std::span<std::byte> memory);

}  // namespace v1
}  // namespace vkmoe
