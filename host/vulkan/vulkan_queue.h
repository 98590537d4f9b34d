// A queue of a Vulkan device with its timeline, which every submit moves on by one, and its command buffers.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <utility>
#include <vector>

#include "host/vulkan/vulkan_api.h"

namespace vkmoe {
inline namespace v1 {

class VulkanQueue {
public:
    // What another queue must have done before work starts.
    struct After {
        const VulkanQueue* queue = nullptr;
        uint64_t value = 0;
    };

    // The timeline and a pool for command buffers of the queue's family.
    VkResult create(const VolkDeviceTable& vk, VkDevice device, VkQueue queue, uint32_t family);
    void destroy();

    // A command buffer to record into: then submit or drop.
    VkResult begin(VkCommandBuffer& command);
    VkResult submit(VkCommandBuffer command, std::optional<After> after);
    void drop(VkCommandBuffer command);

    uint64_t submitted() const { return submitted_; }
    VkResult passed(uint64_t& value) const;
    VkResult wait(uint64_t value) const;
    // The timeline has passed this value: its command buffers serve again.
    void collect(uint64_t value);

private:
    VkSemaphoreSubmitInfo point(uint64_t value) const;

    const VolkDeviceTable* vk_ = nullptr;
    VkDevice device_ = VK_NULL_HANDLE;
    VkQueue queue_ = VK_NULL_HANDLE;
    VkSemaphore timeline_ = VK_NULL_HANDLE;
    VkCommandPool pool_ = VK_NULL_HANDLE;
    uint64_t submitted_ = 0;
    std::deque<std::pair<uint64_t, VkCommandBuffer>> running_;  // by the value that ends them
    std::vector<VkCommandBuffer> idle_;
};

}  // namespace v1
}  // namespace vkmoe
