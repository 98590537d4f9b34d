// A Vulkan device's life: from the loader's candidate to a queue, and back.
#include "host/vulkan/vulkan_device.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "host/vulkan/faults.h"
#include "host/vulkan/pipeline_cache.h"

namespace vkmoe {
inline namespace v1 {
namespace {

DeviceLimits smaller(DeviceLimits a, const DeviceLimits& b) {
    auto lower = [](auto& x, auto y) { x = std::min(x, y); };
    lower(a.memory_budget, b.memory_budget);
    lower(a.max_allocation, b.max_allocation);
    lower(a.max_groups, b.max_groups);
    lower(a.max_invocations, b.max_invocations);
    lower(a.shared_memory, b.shared_memory);
    lower(a.subgroup_size, b.subgroup_size);
    lower(a.subgroup_broadcast, b.subgroup_broadcast);
    lower(a.round_to_nearest, b.round_to_nearest);
    lower(a.preserve_special, b.preserve_special);
    bool imports = a.host_import_alignment != 0 && b.host_import_alignment != 0;
    a.host_import_alignment = imports ? std::max(a.host_import_alignment, b.host_import_alignment) : 0;
    return a;
}

DeviceInfo clampedInfo(const PhysicalDevice& physical, const DeviceOptions& options) {
    DeviceInfo info = physical.candidate.info;
    if (options.clamp) info.limits = smaller(info.limits, *options.clamp);
    info.identity +=
        fmt::format(":{}{}{}", info.limits.round_to_nearest, info.limits.preserve_special, options.break_kernel);
    return info;
}

}  // namespace

VulkanDevice::VulkanDevice(Instance instance, PhysicalDevice physical, const DeviceOptions& options)
    : Device(clampedInfo(physical, options)),
      instance_(std::move(instance)),
      physical_(std::move(physical)),
      break_kernel_(options.break_kernel),
      faults_(options.faults) {
    transfer_queue_ = physical_.transfer_queue || options.emulate_transfer_queue;
    if (!options.cache_folder.empty()) cache_path_ = pipelineCachePath(options.cache_folder, physical_);
}

Result<void> VulkanDevice::open() {
    VKMOE_CHECK(createDevice());
    VKMOE_CHECK(createAllocator());
    VKMOE_CHECK(createLayoutAndCache());
    return createQueues();
}

VulkanDevice::~VulkanDevice() {
    if (!device_) return;
    if (!drain()) {  // better a leak than memory freed under work that runs
        instance_.abandon();
        return;
    }
    if (cache_) storeCache();
    collectAll();
    for (VkPipeline pipeline : pipelines_) vk_.vkDestroyPipeline(device_, pipeline, nullptr);
    transfers_.destroy();
    work_.destroy();
    vk_.vkDestroyPipelineCache(device_, cache_, nullptr);
    vk_.vkDestroyPipelineLayout(device_, layout_, nullptr);
    if (allocator_) vmaDestroyAllocator(allocator_);
    removeFaults(device_);
    vk_.vkDestroyDevice(device_, nullptr);
}

Result<void> VulkanDevice::createDevice() {
    VkPhysicalDeviceVulkan13Features v13{VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_3_FEATURES};
    v13.synchronization2 = v13.maintenance4 = VK_TRUE;
    VkPhysicalDeviceVulkan12Features v12{VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_FEATURES, &v13};
    v12.bufferDeviceAddress = v12.timelineSemaphore = v12.scalarBlockLayout = VK_TRUE;
    v12.shaderSubgroupExtendedTypes = physical_.candidate.info.limits.subgroup_broadcast;
    VkPhysicalDeviceFeatures2 features{VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2, &v12};
    features.features.shaderInt64 = v12.shaderSubgroupExtendedTypes;
    const float priorities[] = {1, 1};
    VkDeviceQueueCreateInfo queues[2] = {{VK_STRUCTURE_TYPE_DEVICE_QUEUE_CREATE_INFO},
                                         {VK_STRUCTURE_TYPE_DEVICE_QUEUE_CREATE_INFO}};
    families_ = {physical_.queue_family};
    if (const auto& other = physical_.transfer_queue; other && other->family != physical_.queue_family)
        families_.push_back(other->family);
    for (size_t i = 0; i < families_.size(); ++i) {
        queues[i].queueFamilyIndex = families_[i];
        queues[i].queueCount = 1;
        queues[i].pQueuePriorities = priorities;
    }
    if (families_.size() == 1 && physical_.transfer_queue) queues[0].queueCount = 2;
    const char* extensions[] = {VK_EXT_EXTERNAL_MEMORY_HOST_EXTENSION_NAME};
    VkDeviceCreateInfo create{VK_STRUCTURE_TYPE_DEVICE_CREATE_INFO, &features};
    create.enabledExtensionCount = info_.limits.host_import_alignment != 0 ? 1 : 0;
    create.ppEnabledExtensionNames = extensions;
    create.queueCreateInfoCount = uint32_t(families_.size());
    create.pQueueCreateInfos = queues;
    VKMOE_VK(faultOr(faults_.get(), [&] { return vkCreateDevice(physical_.handle, &create, nullptr, &device_); }),
             info_.name + ": creating the device");
    volkLoadDeviceTable(&vk_, device_);
    if (faults_) installFaults(vk_, device_, faults_);
    return {};
}

Result<void> VulkanDevice::createAllocator() {
    VmaVulkanFunctions functions{};
    functions.vkGetInstanceProcAddr = vkGetInstanceProcAddr;
    functions.vkGetDeviceProcAddr = vkGetDeviceProcAddr;  // for the rest; these are in our table:
    functions.vkAllocateMemory = vk_.vkAllocateMemory;
    functions.vkMapMemory = vk_.vkMapMemory;
    functions.vkBindBufferMemory = vk_.vkBindBufferMemory;
    functions.vkBindBufferMemory2KHR = vk_.vkBindBufferMemory2;
    functions.vkCreateBuffer = vk_.vkCreateBuffer;
    VmaAllocatorCreateInfo create{};
    create.flags = VMA_ALLOCATOR_CREATE_BUFFER_DEVICE_ADDRESS_BIT | VMA_ALLOCATOR_CREATE_EXTERNALLY_SYNCHRONIZED_BIT;
    create.physicalDevice = physical_.handle;
    create.device = device_;
    create.instance = instance_.handle();
    create.vulkanApiVersion = VK_API_VERSION_1_3;
    create.pVulkanFunctions = &functions;
    create.preferredLargeHeapBlockSize = uint64_t{64} << 20;
    VKMOE_VK(vmaCreateAllocator(&create, &allocator_), info_.name + ": creating the allocator");
    return {};
}

Result<void> VulkanDevice::createLayoutAndCache() {
    VkPushConstantRange range{VK_SHADER_STAGE_COMPUTE_BIT, 0, kMaxParamsSize};
    VkPipelineLayoutCreateInfo layout{VK_STRUCTURE_TYPE_PIPELINE_LAYOUT_CREATE_INFO};
    layout.pushConstantRangeCount = 1;
    layout.pPushConstantRanges = &range;
    VKMOE_VK(vk_.vkCreatePipelineLayout(device_, &layout, nullptr, &layout_),
             info_.name + ": creating the pipeline layout");
    std::vector<std::byte> stored;
    if (!cache_path_.empty()) stored = loadPipelineCache(cache_path_, physical_);
    VkPipelineCacheCreateInfo cache{VK_STRUCTURE_TYPE_PIPELINE_CACHE_CREATE_INFO};
    cache.initialDataSize = stored.size();
    cache.pInitialData = stored.data();
    if (!stored.empty() && vk_.vkCreatePipelineCache(device_, &cache, nullptr, &cache_) == VK_SUCCESS) return {};
    cache.initialDataSize = 0;  // a driver that dislikes its own data starts afresh; without a cache builds take longer
    if (vk_.vkCreatePipelineCache(device_, &cache, nullptr, &cache_) != VK_SUCCESS) cache_ = VK_NULL_HANDLE;
    return {};
}

Result<void> VulkanDevice::createQueues() {
    auto create = [&](VulkanQueue& queue, uint32_t family, uint32_t index) -> Result<void> {
        VkQueue handle = VK_NULL_HANDLE;
        vk_.vkGetDeviceQueue(device_, family, index, &handle);
        if (faults_) addFaultyQueue(device_, handle);
        VKMOE_VK(queue.create(vk_, device_, handle, family), info_.name + ": creating a timeline and a command pool");
        return {};
    };
    VKMOE_CHECK(create(work_, physical_.queue_family, 0));
    if (!transfer_queue_) return {};
    auto other = physical_.transfer_queue.value_or(PhysicalDevice::TransferQueue{physical_.queue_family, 0});
    return create(transfers_, other.family, other.index);
}

// The cache is a convenience: a folder that cannot be written costs the next start some time, nothing else.
void VulkanDevice::storeCache() {
    size_t bytes = 0;
    if (cache_path_.empty() || lost_ || pipelines_.empty()) return;
    if (vk_.vkGetPipelineCacheData(device_, cache_, &bytes, nullptr) != VK_SUCCESS || bytes == 0) return;
    std::vector<std::byte> data(bytes);
    if (vk_.vkGetPipelineCacheData(device_, cache_, &bytes, data.data()) != VK_SUCCESS) return;
    data.resize(bytes);
    if (data == loadPipelineCache(cache_path_, physical_)) return;
    (void)storePipelineCache(cache_path_, physical_, data);
}

// Waits until the device uses nothing any more. One that is lost counts as done, says the specification.
bool VulkanDevice::drain() {
    constexpr int kAttempts = 1000;  // a second: memory may be short for a while
    for (int i = 0; i < kAttempts && !idle_for_good_; ++i) {
        VkResult result = vk_.vkDeviceWaitIdle(device_);
        if (result == VK_SUCCESS || result == VK_ERROR_DEVICE_LOST) return true;
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return idle_for_good_;
}

Error VulkanDevice::failure(VkResult result, const std::string& what) {
    if (result == VK_ERROR_DEVICE_LOST && !lost_) {
        lost_ = true;
        idle_for_good_ = drain();
        if (idle_for_good_) collectAll();
    }
    return vulkanError(result, info_.name + ": " + what);
}

void VulkanDevice::nameObject(VkObjectType type, uint64_t handle, const char* name) {
    if (!instance_.debugNames() || !vkSetDebugUtilsObjectNameEXT) return;
    VkDebugUtilsObjectNameInfoEXT label{VK_STRUCTURE_TYPE_DEBUG_UTILS_OBJECT_NAME_INFO_EXT};
    label.objectType = type;
    label.objectHandle = handle;
    label.pObjectName = name;
    vkSetDebugUtilsObjectNameEXT(device_, &label);  // a label that is refused is no loss
}

Result<std::unique_ptr<Device>> openVulkanDevice(uint32_t index, const DeviceOptions& options) {
    VKMOE_TRY(instance, Instance::create(options.faults.get()));
    VKMOE_TRY(devices, instance.physicalDevices(options.faults.get()));
    if (index >= devices.size())
        return Error{ErrorCode::no_device, fmt::format("gpu:{}: there are {} Vulkan devices", index, devices.size())};
    const VulkanCandidate& candidate = devices[index].candidate;
    if (!candidate.unusable.empty())
        return Error{ErrorCode::no_device,
                     fmt::format("gpu:{} ({}): {}", index, candidate.info.name, candidate.unusable)};
    auto device = std::make_unique<VulkanDevice>(std::move(instance), std::move(devices[index]), options);
    VKMOE_CHECK(device->open());
    return std::unique_ptr<Device>(std::move(device));
}

}  // namespace v1
}  // namespace vkmoe
