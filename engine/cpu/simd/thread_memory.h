// threadMemory: scratch that a thread keeps, for a kernel runs in many small ranges.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace vkmoe {
inline namespace v1 {
namespace simd {

// `floats` values from a multiple of a cache line on, with whatever they held. They are the thread's until it asks for
// those of the same `Use` again.
template <class Use>
float* threadMemory(size_t floats) {
    constexpr size_t kLine = 16;
    thread_local std::vector<float> memory;
    memory.resize(std::max(memory.size(), floats + kLine));
    return memory.data() + (kLine - reinterpret_cast<uintptr_t>(memory.data()) / 4 % kLine) % kLine;
}

}  // namespace simd
}  // namespace v1
}  // namespace vkmoe
