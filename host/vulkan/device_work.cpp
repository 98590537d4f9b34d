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

void VulkanDevice::recordCopy(VkCommandBuffer command, const Commands::Operation& operation) {
    VkBufferCopy region{operation.from_offset, operation.to_offset, operation.bytes};
    vk_.vkCmdCopyBuffer(command, reinterpret_cast<VkBuffer>(operation.from->native()),
                        reinterpret_cast<VkBuffer>(operation.to->native()), 1, &region);
}

Result<void> VulkanDevice::record(VkCommandBuffer command, const Commands& commands) {
    recordBarrier(command, kWorkStages, kAccesses);  // after everything submitted before
    for (const auto& operation : commands.operations()) {
        switch (operation.kind) {
            case Commands::Kind::dispatch:
            case Commands::Kind::dispatch_indirect:
                VKMOE_CHECK(recordDispatch(command, operation));
                break;
            case Commands::Kind::copy:
                recordCopy(command, operation);
                break;
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
    VKMOE_TRY(transfer, transferred());
    collect(value, transfer);
    VkCommandBuffer command = VK_NULL_HANDLE;
    VkResult result = work_.begin(command);
    if (result != VK_SUCCESS) return failure(result, "beginning a command buffer");
    auto recorded = record(command, commands);
    result = vk_.vkEndCommandBuffer(command);
    if (!recorded || result != VK_SUCCESS) {
        work_.drop(command);
        return recorded ? failure(result, "recording commands") : std::move(recorded).error();
    }
    std::optional<VulkanQueue::After> after;
    if (commands.awaitedTransfer() > 0) after = {&transfers_, commands.awaitedTransfer()};
    result = work_.submit(command, after);
    if (result != VK_SUCCESS) return failure(result, "submitting work");
    return work_.submitted();
}

// The host's writes are visible to what is submitted after them, and both timelines order all else.
Result<uint64_t> VulkanDevice::submitTransfer(const Commands& copies, uint64_t after) {
    VkCommandBuffer command = VK_NULL_HANDLE;
    VkResult result = transfers_.begin(command);
    if (result != VK_SUCCESS) return failure(result, "beginning a command buffer of transfers");
    for (const auto& operation : copies.operations()) recordCopy(command, operation);
    result = vk_.vkEndCommandBuffer(command);
    if (result != VK_SUCCESS) {
        transfers_.drop(command);
        return failure(result, "recording transfers");
    }
    result = transfers_.submit(command, VulkanQueue::After{&work_, after});
    if (result != VK_SUCCESS) return failure(result, "submitting transfers");
    return transfers_.submitted();
}

Result<uint64_t> VulkanDevice::passed() {
    if (lost_) return lostError();
    uint64_t value = 0;
    VkResult result = work_.passed(value);
    if (result != VK_SUCCESS) return failure(result, "reading the timeline");
    return value;
}

Result<uint64_t> VulkanDevice::transferred() {
    if (lost_) return lostError();
    if (transfers_.submitted() == 0) return uint64_t{0};
    uint64_t value = 0;
    VkResult result = transfers_.passed(value);
    if (result != VK_SUCCESS) return failure(result, "reading the timeline of transfers");
    return value;
}

Result<void> VulkanDevice::waitFor(uint64_t value) {
    if (value > work_.submitted())  // it would never pass
        return Error{ErrorCode::internal, fmt::format("{}: waiting for work {}, of which {} were submitted", info_.name,
                                                      value, work_.submitted())};
    VkResult result = work_.wait(value);
    if (result != VK_SUCCESS) return failure(result, "waiting for the device");
    VKMOE_TRY(transfer, transferred());
    collect(value, transfer);
    return {};
}

}  // namespace v1
}  // namespace vkmoe
