// Kernels: a compute shader and its CPU twin under one name, and the built form a device gives for a set of constants.
#pragma once

#include <array>
#include <cstdint>
#include <span>

namespace vkmoe {
inline namespace v1 {

class Device;

// The values of a kernel's specialization constants by id; ids a kernel does not use are ignored.
using ConstantWords = std::array<uint32_t, 32>;

// A range of workgroups.
struct Groups {
    uint64_t begin = 0, end = 0;
};

// A CPU twin: does the work of as many of the shader's workgroups; all of them together do that of all, but which stands
// for which is the twin's own. `params` is the very struct the shader is pushed, with host pointers in it. Groups past the
// end of the work return at once, as in the shader. Runs on any number of threads.
using CpuKernel = void (*)(const void* params, const ConstantWords& constants, Groups groups);

struct KernelCode {
    const char* name = "";
    std::span<const uint32_t> spirv;
    uint32_t params_size = 0;  // bytes pushed, at most 128, a multiple of 8
    CpuKernel cpu = nullptr;
    CpuKernel simd = nullptr;  // the same bits, faster; null: there is none
};

inline constexpr uint32_t kWorkgroupSize = 64;   // invocations of every workgroup
inline constexpr uint32_t kMaxParamsSize = 128;  // every Vulkan device pushes this many bytes

// A kernel built by a device; the device owns it.
struct Kernel {
    const KernelCode* code = nullptr;
    ConstantWords constants{};
    uint64_t pipeline = 0;  // VkPipeline, 0 on the CPU
    const Device* device = nullptr;
};

}  // namespace v1
}  // namespace vkmoe
