// Instance: the Vulkan loader, and what it offers, read once and ordered best first.
#pragma once

#include <array>
#include <optional>
#include <vector>

#include "host/device.h"
#include "host/vulkan/vulkan_api.h"

namespace vkmoe {
inline namespace v1 {

// Every buffer may serve any purpose.
inline constexpr VkBufferUsageFlags kBufferUsage =
    VK_BUFFER_USAGE_STORAGE_BUFFER_BIT | VK_BUFFER_USAGE_TRANSFER_SRC_BIT | VK_BUFFER_USAGE_TRANSFER_DST_BIT |
    VK_BUFFER_USAGE_INDIRECT_BUFFER_BIT | VK_BUFFER_USAGE_SHADER_DEVICE_ADDRESS_BIT;

// A physical device as found: everything the rest of host/vulkan needs to know about it.
struct PhysicalDevice {
    VkPhysicalDevice handle = VK_NULL_HANDLE;
    VulkanCandidate candidate;
    uint32_t queue_family = 0;  // one with compute, dedicated if there is one
    // For transfers beside its work: a family for nothing else, or a second queue of the same family.
    struct TransferQueue {
        uint32_t family = 0, index = 0;
    };
    std::optional<TransferQueue> transfer_queue;
    uint32_t vendor = 0, device = 0;
    std::array<uint8_t, VK_UUID_SIZE> pipeline_cache_uuid{};
};

// Owns a VkInstance. Move-only.
class Instance {
public:
    static Result<Instance> create(Faults* faults = nullptr);
    Instance(Instance&& other) noexcept
        : handle_(std::exchange(other.handle_, VK_NULL_HANDLE)), debug_names_(other.debug_names_) {}
    Instance& operator=(Instance&&) = delete;
    ~Instance();

    VkInstance handle() const { return handle_; }
    bool debugNames() const { return debug_names_; }  // VK_EXT_debug_utils is enabled

    // Leaves the instance to the end of the process, with a device in it that cannot be destroyed.
    void abandon() { handle_ = VK_NULL_HANDLE; }

    // All devices, best first: discrete, integrated, virtual, software; the loader's order among equals.
    Result<std::vector<PhysicalDevice>> physicalDevices(Faults* faults = nullptr) const;

private:
    Instance(VkInstance handle, bool debug_names) : handle_(handle), debug_names_(debug_names) {}
    VkInstance handle_;
    bool debug_names_;
};

}  // namespace v1
}  // namespace vkmoe
