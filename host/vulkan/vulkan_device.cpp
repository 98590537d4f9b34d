// The Vulkan device: memory from VMA with addresses, one pipeline layout for every kernel, one queue, one timeline.
#include <fmt/format.h>

#include <algorithm>
#include <deque>

#include "host/device.h"
#include "host/vulkan/instance.h"
#include "host/vulkan/pipeline_cache.h"
#include "host/vulkan/spirv_rewrite.h"

namespace vkmoe {
inline namespace v1 {
namespace {

constexpr VkPipelineStageFlags2 kWorkStages = VK_PIPELINE_STAGE_2_COMPUTE_SHADER_BIT |
                                              VK_PIPELINE_STAGE_2_ALL_TRANSFER_BIT |
                                              VK_PIPELINE_STAGE_2_DRAW_INDIRECT_BIT;
constexpr VkAccessFlags2 kWrites = VK_ACCESS_2_SHADER_STORAGE_WRITE_BIT | VK_ACCESS_2_TRANSFER_WRITE_BIT;
constexpr VkAccessFlags2 kAccesses = kWrites | VK_ACCESS_2_SHADER_STORAGE_READ_BIT | VK_ACCESS_2_TRANSFER_READ_BIT |
                                     VK_ACCESS_2_INDIRECT_COMMAND_READ_BIT;

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
    return a;
}

DeviceInfo clampedInfo(const PhysicalDevice& physical, const DeviceOptions& options) {
    DeviceInfo info = physical.candidate.info;
    if (options.clamp) info.limits = smaller(info.limits, *options.clamp);
    info.identity +=
        fmt::format(":{}{}{}", info.limits.round_to_nearest, info.limits.preserve_special, options.break_kernel);
    return info;
}

class VulkanDevice final : public Device {
public:
    VulkanDevice(Instance instance, PhysicalDevice physical, const DeviceOptions& options)
        : Device(clampedInfo(physical, options)),
          instance_(std::move(instance)),
          physical_(std::move(physical)),
          break_kernel_(options.break_kernel) {
        if (!options.cache_folder.empty()) cache_path_ = pipelineCachePath(options.cache_folder, physical_);
    }
    ~VulkanDevice() override;

    Result<void> open();
    Result<uint64_t> passed() override;

private:
    Result<Block> allocateBlock(uint64_t bytes, Memory memory, const std::string& what) override;
    void releaseBlock(const Block& block, uint64_t bytes) override;
    Result<uint64_t> buildPipeline(const KernelCode& code, const ConstantWords& constants) override;
    Result<uint64_t> submitWork(const Commands& commands) override;
    Result<void> waitFor(uint64_t value) override;

    Result<void> createDevice();
    Result<void> createAllocator();
    Result<void> createLayoutAndCache();
    Result<void> createTimeline();
    Result<VkCommandBuffer> beginCommands();
    Result<void> record(VkCommandBuffer command, const Commands& commands);
    Result<void> recordDispatch(VkCommandBuffer command, const Commands::Operation& operation);
    void recordBarrier(VkCommandBuffer command, VkPipelineStageFlags2 to, VkAccessFlags2 access);
    void collect(uint64_t value);
    void storeCache();
    void nameObject(VkObjectType type, uint64_t handle, const char* name);
    Error failure(VkResult result, const std::string& what);

    struct Retired {
        uint64_t value = 0, bytes = 0;
        Block block;
    };

    Instance instance_;
    PhysicalDevice physical_;
    std::string cache_path_, break_kernel_;
    VolkDeviceTable vk_{};
    VkDevice device_ = VK_NULL_HANDLE;
    VkQueue queue_ = VK_NULL_HANDLE;
    VmaAllocator allocator_ = VK_NULL_HANDLE;
    VkPipelineLayout layout_ = VK_NULL_HANDLE;
    VkPipelineCache cache_ = VK_NULL_HANDLE;
    VkSemaphore timeline_ = VK_NULL_HANDLE;
    VkCommandPool pool_ = VK_NULL_HANDLE;
    std::vector<VkPipeline> pipelines_;
    std::deque<std::pair<uint64_t, VkCommandBuffer>> running_;  // by the value that ends them
    std::vector<VkCommandBuffer> idle_;
    std::vector<Retired> retired_;
    uint64_t submitted_ = 0;
    bool lost_ = false;
};

// ---- life -----------------------------------------------------------------------------------------------------------

Result<void> VulkanDevice::open() {
    VKMOE_CHECK(createDevice());
    VKMOE_CHECK(createAllocator());
    VKMOE_CHECK(createLayoutAndCache());
    return createTimeline();
}

VulkanDevice::~VulkanDevice() {
    if (!device_) return;
    vk_.vkDeviceWaitIdle(device_);  // a lost device answers at once; nothing can be done about it here
    if (cache_) storeCache();
    collect(UINT64_MAX);
    for (VkPipeline pipeline : pipelines_) vk_.vkDestroyPipeline(device_, pipeline, nullptr);
    vk_.vkDestroyCommandPool(device_, pool_, nullptr);
    vk_.vkDestroySemaphore(device_, timeline_, nullptr);
    vk_.vkDestroyPipelineCache(device_, cache_, nullptr);
    vk_.vkDestroyPipelineLayout(device_, layout_, nullptr);
    if (allocator_) vmaDestroyAllocator(allocator_);
    vk_.vkDestroyDevice(device_, nullptr);
}

Result<void> VulkanDevice::createDevice() {
    VkPhysicalDeviceVulkan13Features v13{VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_3_FEATURES};
    v13.synchronization2 = v13.maintenance4 = VK_TRUE;
    VkPhysicalDeviceVulkan12Features v12{VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_FEATURES, &v13};
    v12.bufferDeviceAddress = v12.timelineSemaphore = v12.scalarBlockLayout = VK_TRUE;
    float priority = 1;
    VkDeviceQueueCreateInfo queue{VK_STRUCTURE_TYPE_DEVICE_QUEUE_CREATE_INFO};
    queue.queueFamilyIndex = physical_.queue_family;
    queue.queueCount = 1;
    queue.pQueuePriorities = &priority;
    VkDeviceCreateInfo create{VK_STRUCTURE_TYPE_DEVICE_CREATE_INFO, &v12};
    create.queueCreateInfoCount = 1;
    create.pQueueCreateInfos = &queue;
    VKMOE_VK(vkCreateDevice(physical_.handle, &create, nullptr, &device_), info_.name + ": creating the device");
    volkLoadDeviceTable(&vk_, device_);
    vk_.vkGetDeviceQueue(device_, physical_.queue_family, 0, &queue_);
    return {};
}

Result<void> VulkanDevice::createAllocator() {
    VmaVulkanFunctions functions{};
    functions.vkGetInstanceProcAddr = vkGetInstanceProcAddr;
    functions.vkGetDeviceProcAddr = vkGetDeviceProcAddr;
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
    cache.initialDataSize = 0;  // a driver that dislikes its own data starts afresh
    VKMOE_VK(vk_.vkCreatePipelineCache(device_, &cache, nullptr, &cache_),
             info_.name + ": creating the pipeline cache");
    return {};
}

Result<void> VulkanDevice::createTimeline() {
    VkSemaphoreTypeCreateInfo type{VK_STRUCTURE_TYPE_SEMAPHORE_TYPE_CREATE_INFO};
    type.semaphoreType = VK_SEMAPHORE_TYPE_TIMELINE;
    VkSemaphoreCreateInfo semaphore{VK_STRUCTURE_TYPE_SEMAPHORE_CREATE_INFO, &type};
    VKMOE_VK(vk_.vkCreateSemaphore(device_, &semaphore, nullptr, &timeline_), info_.name + ": creating the timeline");
    VkCommandPoolCreateInfo pool{VK_STRUCTURE_TYPE_COMMAND_POOL_CREATE_INFO};
    pool.flags = VK_COMMAND_POOL_CREATE_RESET_COMMAND_BUFFER_BIT;
    pool.queueFamilyIndex = physical_.queue_family;
    VKMOE_VK(vk_.vkCreateCommandPool(device_, &pool, nullptr, &pool_), info_.name + ": creating the command pool");
    return {};
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

Error VulkanDevice::failure(VkResult result, const std::string& what) {
    if (result == VK_ERROR_DEVICE_LOST) lost_ = true;
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

// ---- memory ---------------------------------------------------------------------------------------------------------

Result<Device::Block> VulkanDevice::allocateBlock(uint64_t bytes, Memory memory, const std::string& what) {
    VkBufferCreateInfo buffer{VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO};
    buffer.size = bytes;
    buffer.usage = VK_BUFFER_USAGE_STORAGE_BUFFER_BIT | VK_BUFFER_USAGE_TRANSFER_SRC_BIT |
                   VK_BUFFER_USAGE_TRANSFER_DST_BIT | VK_BUFFER_USAGE_INDIRECT_BUFFER_BIT |
                   VK_BUFFER_USAGE_SHADER_DEVICE_ADDRESS_BIT;
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
    VkResult result = vmaCreateBufferWithAlignment(allocator_, &buffer, &create, 256, &handle, &allocation, &placed);
    if (result != VK_SUCCESS) return failure(result, fmt::format("{}: allocating {} bytes", what, bytes));
    VkBufferDeviceAddressInfo address{VK_STRUCTURE_TYPE_BUFFER_DEVICE_ADDRESS_INFO};
    address.buffer = handle;
    Block block{vk_.vkGetBufferDeviceAddress(device_, &address), reinterpret_cast<uint64_t>(handle),
                memory == Memory::device ? nullptr : placed.pMappedData, allocation};
    nameObject(VK_OBJECT_TYPE_BUFFER, block.native, what.c_str());
    return block;
}

void VulkanDevice::releaseBlock(const Block& block, uint64_t bytes) {
    retired_.push_back({submitted_, bytes, block});
    if (auto value = passed()) collect(*value);
}

// Frees what the timeline has passed.
void VulkanDevice::collect(uint64_t value) {
    auto free = [&](const Retired& retired) {
        if (retired.value > value) return false;
        vmaDestroyBuffer(allocator_, reinterpret_cast<VkBuffer>(retired.block.native),
                         static_cast<VmaAllocation>(retired.block.allocation));
        ledger_.give(retired.bytes);
        return true;
    };
    std::erase_if(retired_, free);
    while (!running_.empty() && running_.front().first <= value) {
        idle_.push_back(running_.front().second);
        running_.pop_front();
    }
}

// ---- pipelines ------------------------------------------------------------------------------------------------------

Result<uint64_t> VulkanDevice::buildPipeline(const KernelCode& code, const ConstantWords& constants) {
    if (kWorkgroupSize > info_.limits.max_invocations)
        return Error{ErrorCode::no_device, fmt::format("{}: workgroups of {} invocations are needed, it allows {}",
                                                       info_.name, kWorkgroupSize, info_.limits.max_invocations)};
    std::vector<uint32_t> spirv =
        withFloatModes(code.spirv, info_.limits.round_to_nearest, info_.limits.preserve_special);
    if (break_kernel_ == code.name) subtractForAdd(spirv);
    VkShaderModuleCreateInfo module{VK_STRUCTURE_TYPE_SHADER_MODULE_CREATE_INFO};
    module.codeSize = spirv.size() * 4;
    module.pCode = spirv.data();
    VkShaderModule shader = VK_NULL_HANDLE;
    VkResult result = vk_.vkCreateShaderModule(device_, &module, nullptr, &shader);
    if (result != VK_SUCCESS) return failure(result, fmt::format("{}: creating the shader", code.name));

    std::array<VkSpecializationMapEntry, std::tuple_size_v<ConstantWords>> entries;
    for (uint32_t i = 0; i < entries.size(); ++i) entries[i] = {i, i * 4, 4};
    VkSpecializationInfo special{uint32_t(entries.size()), entries.data(), sizeof constants, constants.data()};
    VkComputePipelineCreateInfo create{VK_STRUCTURE_TYPE_COMPUTE_PIPELINE_CREATE_INFO};
    create.stage = {VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_CREATE_INFO};
    create.stage.stage = VK_SHADER_STAGE_COMPUTE_BIT;
    create.stage.module = shader;
    create.stage.pName = "main";
    create.stage.pSpecializationInfo = &special;
    create.layout = layout_;
    VkPipeline pipeline = VK_NULL_HANDLE;
    result = vk_.vkCreateComputePipelines(device_, cache_, 1, &create, nullptr, &pipeline);
    vk_.vkDestroyShaderModule(device_, shader, nullptr);
    if (result != VK_SUCCESS) return failure(result, fmt::format("{}: building the pipeline", code.name));
    pipelines_.push_back(pipeline);
    nameObject(VK_OBJECT_TYPE_PIPELINE, reinterpret_cast<uint64_t>(pipeline), code.name);
    return reinterpret_cast<uint64_t>(pipeline);
}

// ---- work -----------------------------------------------------------------------------------------------------------

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
    idle_.push_back(command);
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
    if (lost_) return Error{ErrorCode::device_lost, info_.name + ": the device was lost"};
    VKMOE_TRY(value, passed());
    collect(value);
    VKMOE_TRY(command, beginCommands());
    auto recorded = record(command, commands);
    VkResult result = vk_.vkEndCommandBuffer(command);
    if (!recorded || result != VK_SUCCESS) {
        idle_.push_back(command);
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
    uint64_t value = 0;
    VkResult result = vk_.vkGetSemaphoreCounterValue(device_, timeline_, &value);
    if (result != VK_SUCCESS) return failure(result, "reading the timeline");
    return value;
}

Result<void> VulkanDevice::waitFor(uint64_t value) {
    if (lost_) return Error{ErrorCode::device_lost, info_.name + ": the device was lost"};
    VkSemaphoreWaitInfo wait{VK_STRUCTURE_TYPE_SEMAPHORE_WAIT_INFO};
    wait.semaphoreCount = 1;
    wait.pSemaphores = &timeline_;
    wait.pValues = &value;
    VkResult result = vk_.vkWaitSemaphores(device_, &wait, UINT64_MAX);
    if (result != VK_SUCCESS) return failure(result, "waiting for the device");
    collect(value);
    return {};
}

}  // namespace

Result<std::unique_ptr<Device>> openVulkanDevice(uint32_t index, const DeviceOptions& options) {
    VKMOE_TRY(instance, Instance::create());
    VKMOE_TRY(devices, instance.physicalDevices());
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
