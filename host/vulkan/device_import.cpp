// A Vulkan device's imported memory: buffers over memory of the host (VK_EXT_external_memory_host).
#include <fmt/format.h>

#include <bit>
#include <cstdlib>

#include "host/host_memory.h"
#include "host/vulkan/vulkan_device.h"

namespace vkmoe {
inline namespace v1 {
namespace {

constexpr VkExternalMemoryHandleTypeFlagBits kHostMemory = VK_EXTERNAL_MEMORY_HANDLE_TYPE_HOST_ALLOCATION_BIT_EXT;

// The first of the types in `bits` that the host and the device see alike without flushes; -1: none.
int coherentType(VkPhysicalDevice device, uint32_t bits) {
    VkPhysicalDeviceMemoryProperties memory;
    vkGetPhysicalDeviceMemoryProperties(device, &memory);
    constexpr VkMemoryPropertyFlags wanted = VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT | VK_MEMORY_PROPERTY_HOST_COHERENT_BIT;
    for (uint32_t left = bits; left != 0; left &= left - 1) {
        int type = std::countr_zero(left);
        if ((memory.memoryTypes[type].propertyFlags & wanted) == wanted) return type;
    }
    return -1;
}

}  // namespace

Result<uint32_t> VulkanDevice::importType(VkBuffer buffer, std::span<std::byte> memory, const std::string& what) {
    VkMemoryHostPointerPropertiesEXT pointer{VK_STRUCTURE_TYPE_MEMORY_HOST_POINTER_PROPERTIES_EXT};
    VkResult result = vk_.vkGetMemoryHostPointerPropertiesEXT(device_, kHostMemory, memory.data(), &pointer);
    if (result != VK_SUCCESS) return failure(result, what + ": importing memory of the host");
    VkMemoryRequirements needs;
    vk_.vkGetBufferMemoryRequirements(device_, buffer, &needs);
    int type = coherentType(physical_.handle, needs.memoryTypeBits & pointer.memoryTypeBits);
    if (type < 0 || needs.size > memory.size())
        return Error{ErrorCode::unsupported, fmt::format("{}: {} makes no buffer of {} bytes of the host's memory",
                                                         what, info_.name, memory.size())};
    return uint32_t(type);
}

Result<VkDeviceMemory> VulkanDevice::importMemory(VkBuffer buffer, std::span<std::byte> memory,
                                                  const std::string& what) {
    VKMOE_TRY(type, importType(buffer, memory, what));
    VkMemoryAllocateFlagsInfo flags{VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_FLAGS_INFO};
    flags.flags = VK_MEMORY_ALLOCATE_DEVICE_ADDRESS_BIT;
    VkImportMemoryHostPointerInfoEXT import{VK_STRUCTURE_TYPE_IMPORT_MEMORY_HOST_POINTER_INFO_EXT, &flags};
    import.handleType = kHostMemory;
    import.pHostPointer = memory.data();
    VkMemoryAllocateInfo allocate{VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO, &import};
    allocate.allocationSize = memory.size();
    allocate.memoryTypeIndex = type;
    VkDeviceMemory handle = VK_NULL_HANDLE;
    VkResult result = vk_.vkAllocateMemory(device_, &allocate, nullptr, &handle);
    if (result == VK_SUCCESS) {
        result = vk_.vkBindBufferMemory(device_, buffer, handle, 0);
        if (result == VK_SUCCESS) return handle;
        vk_.vkFreeMemory(device_, handle, nullptr);
    }
    return failure(result, fmt::format("{}: importing {} bytes of the host's memory", what, memory.size()));
}

Result<Device::Block> VulkanDevice::importBlock(std::span<std::byte> memory, const std::string& what) {
    VkExternalMemoryBufferCreateInfo external{VK_STRUCTURE_TYPE_EXTERNAL_MEMORY_BUFFER_CREATE_INFO};
    external.handleTypes = kHostMemory;
    VkBufferCreateInfo create{VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO, &external};
    create.size = memory.size();
    create.usage = kBufferUsage;
    shareQueues(create);
    VkBuffer buffer = VK_NULL_HANDLE;
    VkResult result = vk_.vkCreateBuffer(device_, &create, nullptr, &buffer);
    if (result != VK_SUCCESS) return failure(result, what + ": a buffer of the host's memory");
    auto imported = importMemory(buffer, memory, what);
    if (!imported) {
        vk_.vkDestroyBuffer(device_, buffer, nullptr);
        return std::move(imported).error();
    }
    nameObject(VK_OBJECT_TYPE_BUFFER, reinterpret_cast<uint64_t>(buffer), what.c_str());
    return Block{addressOf(buffer), reinterpret_cast<uint64_t>(buffer), memory.data(), *imported, Backing::imported};
}

// Whole pages of the process.
Result<Device::Block> VulkanDevice::allocateOwn(uint64_t bytes, const std::string& what) {
    const uint64_t unit = info_.limits.host_import_alignment;
    const uint64_t rounded = (bytes + unit - 1) / unit * unit;
    if (rounded > info_.limits.max_allocation)
        return Error{ErrorCode::unsupported, fmt::format("{}: {} bytes are too many for one range", what, rounded)};
    auto* memory = static_cast<std::byte*>(allocateHostMemory(rounded, unit));
    if (!memory) return Error{ErrorCode::out_of_memory, fmt::format("{}: the system refused {} bytes", what, rounded)};
    auto block = importBlock({memory, rounded}, what);
    if (!block && !lost_ && waitForAll()) block = importBlock({memory, rounded}, what);  // what was given back is free
    if (!block)
        std::free(memory);
    else
        block->backing = Backing::own;
    return block;
}

}  // namespace v1
}  // namespace vkmoe
