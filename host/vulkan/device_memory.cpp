// A Vulkan device's memory: what is given back is freed when both timelines have passed its last use.
#include <fmt/format.h>

#include <cstdlib>

#include "host/vulkan/vulkan_device.h"

namespace vkmoe {
inline namespace v1 {

Result<Device::Block> VulkanDevice::allocateBlock(uint64_t bytes, Memory memory, const std::string& what) {
    if (memory == Memory::host && info_.limits.host_import_alignment != 0) {
        auto own = allocateOwn(bytes, what);
        if (own || lost_) return own;  // what cannot be imported, the driver may have
    }
    VkBufferCreateInfo buffer{VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO};
    buffer.size = bytes;
    buffer.usage = kBufferUsage;
    shareQueues(buffer);
    VmaAllocationCreateInfo create{};
    create.usage = VMA_MEMORY_USAGE_AUTO_PREFER_DEVICE;
    if (memory != Memory::device) {
        create.usage = VMA_MEMORY_USAGE_AUTO_PREFER_HOST;
        create.flags = VMA_ALLOCATION_CREATE_MAPPED_BIT |
                       (memory == Memory::upload ? VMA_ALLOCATION_CREATE_HOST_ACCESS_SEQUENTIAL_WRITE_BIT
                                                 : VMA_ALLOCATION_CREATE_HOST_ACCESS_RANDOM_BIT);
        create.requiredFlags = VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT | VK_MEMORY_PROPERTY_HOST_COHERENT_BIT;
    }
    VkBuffer handle = VK_NULL_HANDLE;
    VmaAllocation allocation = VK_NULL_HANDLE;
    VmaAllocationInfo placed{};
    auto make = [&] {
        return vmaCreateBufferWithAlignment(allocator_, &buffer, &create, 256, &handle, &allocation, &placed);
    };
    VkResult result = make();
    if (result != VK_SUCCESS) {
        auto waited = waitForAll();        // frees what was given back
        if (lost_) return waited.error();  // and called it a lack of memory
        if (waited) result = make();
    }
    if (result != VK_SUCCESS) return failure(result, fmt::format("{}: allocating {} bytes", what, bytes));
    Block block{addressOf(handle), reinterpret_cast<uint64_t>(handle),
                memory == Memory::device ? nullptr : placed.pMappedData, allocation};
    nameObject(VK_OBJECT_TYPE_BUFFER, block.native, what.c_str());
    return block;
}

Result<void> VulkanDevice::waitForAll() {
    if (transfers_.submitted() > 0) {
        VkResult result = transfers_.wait(transfers_.submitted());
        if (result != VK_SUCCESS) return failure(result, "waiting for transfers");
    }
    return waitFor(work_.submitted());
}

// Families of queues use a buffer at once, each its parts.
void VulkanDevice::shareQueues(VkBufferCreateInfo& create) {
    if (families_.size() < 2) return;
    create.sharingMode = VK_SHARING_MODE_CONCURRENT;
    create.queueFamilyIndexCount = uint32_t(families_.size());
    create.pQueueFamilyIndices = families_.data();
}

uint64_t VulkanDevice::addressOf(VkBuffer buffer) {
    VkBufferDeviceAddressInfo address{VK_STRUCTURE_TYPE_BUFFER_DEVICE_ADDRESS_INFO};
    address.buffer = buffer;
    return vk_.vkGetBufferDeviceAddress(device_, &address);
}

void VulkanDevice::releaseBlock(const Block& block, uint64_t bytes) {
    retired_.push_back({work_.submitted(), transfers_.submitted(), bytes, block});
    if (idle_for_good_) return collectAll();
    auto value = passed(), transfer = transferred();
    if (value && transfer) collect(*value, *transfer);
}

void VulkanDevice::freeBlock(const Block& block) {
    auto buffer = reinterpret_cast<VkBuffer>(block.native);
    if (block.backing == Backing::driver)
        return vmaDestroyBuffer(allocator_, buffer, static_cast<VmaAllocation>(block.allocation));
    vk_.vkDestroyBuffer(device_, buffer, nullptr);
    vk_.vkFreeMemory(device_, reinterpret_cast<VkDeviceMemory>(block.allocation), nullptr);
    if (block.backing == Backing::own) std::free(block.mapped);
}

// Frees what both timelines have passed.
void VulkanDevice::collect(uint64_t value, uint64_t transferred) {
    auto free = [&](const Retired& retired) {
        if (retired.value > value || retired.transfer > transferred) return false;
        freeBlock(retired.block);
        giveBack(retired.block, retired.bytes);
        return true;
    };
    std::erase_if(retired_, free);
    work_.collect(value);
    transfers_.collect(transferred);
}

}  // namespace v1
}  // namespace vkmoe
