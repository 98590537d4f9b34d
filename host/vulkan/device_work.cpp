// A Vulkan device's work: command lists become command buffers, the timeline tells what is finished.
#include <fmt/format.h>

#include <algorithm>

#include "host/vulkan/vulkan_device.h"

namespace vkmoe {
inline namespace v1 {
namespace {

constexpr VkPipelineStageFlags2 kWorkStages = VK_PIPELINE_STAGE_2_COMPUTE_SHADER_BIT |
                                              VK_PIPELINE_STAGE_2_ALL_TRANSFER_BIT |
                                              VK_PIPELINE_STAGE_2_DRAW_INDIRECT_BIT;
constexpr VkAccessFlags2 kWrites = VK_ACCESS_2_SHADER_STORAGE_WRITE_BIT | VK_ACCESS_2_TRANSFER_WRITE_BIT;
constexpr VkAccessFlags2 kAccesses = kWrites | VK_ACCESS_2_SHADER_STORAGE_READ_BIT | VK_ACCESS_2_TRANSFER_READ_BIT |
                                     VK_ACCESS_2_INDIRECT_COMMAND_READ_BIT;

}  // namespace

Result<VkCommandBuffer> VulkanDevice::beginCommands() {
    VkCommandBuffer command = VK_NULL_HANDLE;
    if (!idle_.empty()) {
        command = idle_.back();
        idle_.pop_back();
    } else {
        VkCommandBufferAllocateInfo allocate{VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO};
        allocate.commandPool = pool_;
        allocate.level = VK_COMMAND_BUFFER_LEVEL_PRIMARY;
        allocate.commandBufferCount = 1;
        VkResult result = vk_.vkAllocateCommandBuffers(device_, &allocate, &command);
        if (result != VK_SUCCESS) return failure(result, "allocating a command buffer");
    }
    VkCommandBufferBeginInfo begin{VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO};
    begin.flags = VK_COMMAND_BUFFER_USAGE_ONE_TIME_SUBMIT_BIT;
    VkResult result = vk_.vkBeginCommandBuffer(command, &begin);
    if (result == VK_SUCCESS) return command;
    vk_.vkFreeCommandBuffers(device_, pool_, 1, &command);
    return failure(result, "beginning a command buffer");
}

void VulkanDevice::recordBarrier(VkCommandBuffer command, VkPipelineStageFlags2 to, VkAccessFlags2 access) {
    VkMemoryBarrier2 barrier{VK_STRUCTURE_TYPE_MEMORY_BARRIER_2};
    barrier.srcStageMask = kWorkStages;
    barrier.srcAccessMask = kWrites;
    barrier.dstStageMask = to;
    barrier.dstAccessMask = access;
    VkDependencyInfo dependency{VK_STRUCTURE_TYPE_DEPENDENCY_INFO};
    dependency.memoryBarrierCount = 1;
    dependency.pMemoryBarriers = &barrier;
    vk_.vkCmdPipelineBarrier2(command, &dependency);
}

Result<void> VulkanDevice::recordDispatch(VkCommandBuffer command, const Commands::Operation& operation) {
    const Kernel& kernel = *operation.kernel;
    vk_.vkCmdBindPipeline(command, VK_PIPELINE_BIND_POINT_COMPUTE, reinterpret_cast<VkPipeline>(kernel.pipeline));
    vk_.vkCmdPushConstants(command, layout_, VK_SHADER_STAGE_COMPUTE_BIT, 0, kernel.code->params_size,
                           operation.params.data());
    if (operation.kind == Commands::Kind::dispatch_indirect) {
        vk_.vkCmdDispatchIndirect(command, reinterpret_cast<VkBuffer>(operation.from->native()), operation.from_offset);
        return {};
    }
    uint64_t x = std::min<uint64_t>(operation.groups, info_.limits.max_groups), y = (operation.groups + x - 1) / x;
    if (y > info_.limits.max_groups)
        return Error{ErrorCode::unsupported,
                     fmt::format("{}: {} workgroups asked, {} runs at most {} squared", kernel.code->name,
                                 operation.groups, info_.name, info_.limits.max_groups)};
    vk_.vkCmdDispatch(command, uint32_t(x), uint32_t(y), 1);
    return {};
}

Result<void> VulkanDevice::record(VkCommandBuffer command, const Commands& commands) {
    recordBarrier(command, kWorkStages, kAccesses);  // after everything submitted before
    for (const auto& operation : commands.operations()) {
        switch (operation.kind) {
            case Commands::Kind::dispatch:
            case Commands::Kind::dispatch_indirect:
                VKMOE_CHECK(recordDispatch(command, operation));
                break;
            case Commands::Kind::copy: {
                VkBufferCopy region{operation.from_offset, operation.to_offset, operation.bytes};
                vk_.vkCmdCopyBuffer(command, reinterpret_cast<VkBuffer>(operation.from->native()),
                                    reinterpret_cast<VkBuffer>(operation.to->native()), 1, &region);
                break;
            }
            case Commands::Kind::fill:
                vk_.vkCmdFillBuffer(command, reinterpret_cast<VkBuffer>(operation.to->native()), operation.to_offset,
                                    operation.bytes, operation.word);
                break;
            case Commands::Kind::update:
                vk_.vkCmdUpdateBuffer(command, reinterpret_cast<VkBuffer>(operation.to->native()), operation.to_offset,
                                      operation.bytes, operation.params.data());
                break;
            case Commands::Kind::barrier:
                recordBarrier(command, kWorkStages, kAccesses);
                break;
        }
    }
    recordBarrier(command, VK_PIPELINE_STAGE_2_HOST_BIT, VK_ACCESS_2_HOST_READ_BIT);
    return {};
}

Result<uint64_t> VulkanDevice::submitWork(const Commands& commands) {
    VKMOE_TRY(value, passed());
    collect(value);
    VKMOE_TRY(command, beginCommands());
    auto recorded = record(command, commands);
    VkResult result = vk_.vkEndCommandBuffer(command);
    if (!recorded || result != VK_SUCCESS) {
        vk_.vkFreeCommandBuffers(device_, pool_, 1, &command);  // whatever state it was left in
        return recorded ? failure(result, "recording commands") : std::move(recorded).error();
    }
    VkCommandBufferSubmitInfo buffer{VK_STRUCTURE_TYPE_COMMAND_BUFFER_SUBMIT_INFO};
    buffer.commandBuffer = command;
    VkSemaphoreSubmitInfo signal{VK_STRUCTURE_TYPE_SEMAPHORE_SUBMIT_INFO};
    signal.semaphore = timeline_;
    signal.value = submitted_ + 1;
    signal.stageMask = VK_PIPELINE_STAGE_2_ALL_COMMANDS_BIT;
    VkSubmitInfo2 submit{VK_STRUCTURE_TYPE_SUBMIT_INFO_2};
    submit.commandBufferInfoCount = 1;
    submit.pCommandBufferInfos = &buffer;
    submit.signalSemaphoreInfoCount = 1;
    submit.pSignalSemaphoreInfos = &signal;
    result = vk_.vkQueueSubmit2(queue_, 1, &submit, VK_NULL_HANDLE);
    if (result != VK_SUCCESS) {
        idle_.push_back(command);
        return failure(result, "submitting work");
    }
    running_.emplace_back(++submitted_, command);
    return submitted_;
}

Result<uint64_t> VulkanDevice::passed() {
    if (lost_) return lostError();
    uint64_t value = 0;
    VkResult result = vk_.vkGetSemaphoreCounterValue(device_, timeline_, &value);
    if (result != VK_SUCCESS) return failure(result, "reading the timeline");
    return std::min(value, submitted_);  // a device about to be lost may say anything
}

Result<void> VulkanDevice::waitFor(uint64_t value) {
    if (value > submitted_)  // it would never pass
        return Error{ErrorCode::internal,
                     fmt::format("{}: waiting for work {}, of which {} were submitted", info_.name, value, submitted_)};
    VkSemaphoreWaitInfo wait{VK_STRUCTURE_TYPE_SEMAPHORE_WAIT_INFO};
    wait.semaphoreCount = 1;
    wait.pSemaphores = &timeline_;
    wait.pValues = &value;
    VkResult result = vk_.vkWaitSemaphores(device_, &wait, UINT64_MAX);
    if (result != VK_SUCCESS) return failure(result, "waiting for the device");
    collect(value);
    return {};
}

}  // namespace v1
}  // namespace vkmoe
