#include "host/vulkan/vulkan_queue.h"

#include <algorithm>

namespace vkmoe {
inline namespace v1 {

VkResult VulkanQueue::create(const VolkDeviceTable& vk, VkDevice device, VkQueue queue, uint32_t family) {
    vk_ = &vk;
    device_ = device;
    queue_ = queue;
    VkSemaphoreTypeCreateInfo type{VK_STRUCTURE_TYPE_SEMAPHORE_TYPE_CREATE_INFO};
    type.semaphoreType = VK_SEMAPHORE_TYPE_TIMELINE;
    VkSemaphoreCreateInfo semaphore{VK_STRUCTURE_TYPE_SEMAPHORE_CREATE_INFO, &type};
    VkResult result = vk_->vkCreateSemaphore(device_, &semaphore, nullptr, &timeline_);
    if (result != VK_SUCCESS) return result;
    VkCommandPoolCreateInfo pool{VK_STRUCTURE_TYPE_COMMAND_POOL_CREATE_INFO};
    pool.flags = VK_COMMAND_POOL_CREATE_RESET_COMMAND_BUFFER_BIT;
    pool.queueFamilyIndex = family;
    return vk_->vkCreateCommandPool(device_, &pool, nullptr, &pool_);
}

void VulkanQueue::destroy() {
    if (!vk_) return;
    vk_->vkDestroyCommandPool(device_, pool_, nullptr);
    vk_->vkDestroySemaphore(device_, timeline_, nullptr);
}

VkResult VulkanQueue::begin(VkCommandBuffer& command) {
    if (!idle_.empty()) {
        command = idle_.back();
        idle_.pop_back();
    } else {
        VkCommandBufferAllocateInfo allocate{VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO};
        allocate.commandPool = pool_;
        allocate.level = VK_COMMAND_BUFFER_LEVEL_PRIMARY;
        allocate.commandBufferCount = 1;
        VkResult result = vk_->vkAllocateCommandBuffers(device_, &allocate, &command);
        if (result != VK_SUCCESS) return result;
    }
    VkCommandBufferBeginInfo begin{VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO};
    begin.flags = VK_COMMAND_BUFFER_USAGE_ONE_TIME_SUBMIT_BIT;
    VkResult result = vk_->vkBeginCommandBuffer(command, &begin);
    if (result != VK_SUCCESS) drop(command);
    return result;
}

// Whatever state it was left in.
void VulkanQueue::drop(VkCommandBuffer command) { vk_->vkFreeCommandBuffers(device_, pool_, 1, &command); }

VkSemaphoreSubmitInfo VulkanQueue::point(uint64_t value) const {
    VkSemaphoreSubmitInfo point{VK_STRUCTURE_TYPE_SEMAPHORE_SUBMIT_INFO};
    point.semaphore = timeline_;
    point.value = value;
    point.stageMask = VK_PIPELINE_STAGE_2_ALL_COMMANDS_BIT;
    return point;
}

VkResult VulkanQueue::submit(VkCommandBuffer command, std::optional<After> after) {
    VkCommandBufferSubmitInfo buffer{VK_STRUCTURE_TYPE_COMMAND_BUFFER_SUBMIT_INFO};
    buffer.commandBuffer = command;
    VkSemaphoreSubmitInfo signal = point(submitted_ + 1), wait{};
    VkSubmitInfo2 submit{VK_STRUCTURE_TYPE_SUBMIT_INFO_2};
    submit.commandBufferInfoCount = 1;
    submit.pCommandBufferInfos = &buffer;
    submit.signalSemaphoreInfoCount = 1;
    submit.pSignalSemaphoreInfos = &signal;
    if (after) {
        wait = after->queue->point(after->value);
        submit.waitSemaphoreInfoCount = 1;
        submit.pWaitSemaphoreInfos = &wait;
    }
    VkResult result = vk_->vkQueueSubmit2(queue_, 1, &submit, VK_NULL_HANDLE);
    if (result == VK_SUCCESS)
        running_.emplace_back(++submitted_, command);
    else
        idle_.push_back(command);
    return result;
}

VkResult VulkanQueue::passed(uint64_t& value) const {
    VkResult result = vk_->vkGetSemaphoreCounterValue(device_, timeline_, &value);
    value = std::min(value, submitted_);  // a device about to be lost may say anything
    return result;
}

VkResult VulkanQueue::wait(uint64_t value) const {
    VkSemaphoreWaitInfo wait{VK_STRUCTURE_TYPE_SEMAPHORE_WAIT_INFO};
    wait.semaphoreCount = 1;
    wait.pSemaphores = &timeline_;
    wait.pValues = &value;
    return vk_->vkWaitSemaphores(device_, &wait, UINT64_MAX);
}

void VulkanQueue::collect(uint64_t value) {
    while (!running_.empty() && running_.front().first <= value) {
        idle_.push_back(running_.front().second);
        running_.pop_front();
    }
}

}  // namespace v1
}  // namespace vkmoe
