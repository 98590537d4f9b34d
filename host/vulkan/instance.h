// Instance: the Vulkan loader, and what it offers, read once and ordered best first.
#pragma once

#include <vector>

#include "host/device.h"
#include "host/vulkan/vulkan_api.h"

namespace vkmoe {
inline namespace v1 {

// A physical device as found: everything the rest of host/vulkan needs to know about it.
struct PhysicalDevice {
    VkPhysicalDevice handle = VK_NULL_HANDLE;
    VulkanCandidate candidate;
    uint32_t queue_family = 0;  // one with compute, dedicated if there is one
    uint32_t vendor = 0, device = 0;
    std::array<uint8_t, VK_UUID_SIZE> pipeline_cache_uuid{};
};

// Owns a VkInstance. Move-only.
class Instance {
public:
    static Result<Instance> create();
    Instance(Instance&& other) noexcept
        : handle_(std::exchange(other.handle_, VK_NULL_HANDLE)), debug_names_(other.debug_names_) {}
    Instance& operator=(Instance&&) = delete;
    ~Instance();

    VkInstance handle() const { return handle_; }
    bool debugNames() const { return debug_names_; }  // VK_EXT_debug_utils is enabled

    // All devices, best first: discrete, integrated, virtual, software; the loader's order among equals.
    Result<std::vector<PhysicalDevice>> physicalDevices() const;

private:
    Instance(VkInstance handle, bool debug_names) : handle_(handle), debug_names_(debug_names) {}
    VkInstance handle_;
    bool debug_names_;
};

}  // namespace v1
}  // namespace vkmoe
