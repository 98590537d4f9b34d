#include "host/vulkan/instance.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <mutex>

#include "host/vulkan/faults.h"

namespace vkmoe {
inline namespace v1 {
namespace {

Result<void> loadLoader() {
    static std::once_flag once;
    static VkResult result;
    std::call_once(once, [] { result = volkInitialize(); });
    if (result != VK_SUCCESS)
        return Error{ErrorCode::no_device, "no Vulkan loader: libvulkan.so.1 is not installed on this system",
                     int(result)};
    return {};
}

// Whether enumerate(count, properties) lists the extension; one that fails has none.
template <class Enumerate>
bool hasExtension(const char* wanted, const Enumerate& enumerate) {
    uint32_t count = 0;
    if (enumerate(&count, nullptr) != VK_SUCCESS) return false;
    std::vector<VkExtensionProperties> found(count);
    if (enumerate(&count, found.data()) < 0) return false;
    return std::any_of(found.begin(), found.end(),
                       [&](const auto& e) { return std::strcmp(e.extensionName, wanted) == 0; });
}

bool hasInstanceExtension(const char* wanted, Faults* faults) {
    return hasExtension(wanted, [&](uint32_t* count, VkExtensionProperties* properties) {
        return faultOr(faults, [&] { return vkEnumerateInstanceExtensionProperties(nullptr, count, properties); });
    });
}

DeviceType typeOf(VkPhysicalDeviceType type) {
    switch (type) {
        case VK_PHYSICAL_DEVICE_TYPE_DISCRETE_GPU:
            return DeviceType::discrete;
        case VK_PHYSICAL_DEVICE_TYPE_INTEGRATED_GPU:
            return DeviceType::integrated;
        case VK_PHYSICAL_DEVICE_TYPE_VIRTUAL_GPU:
            return DeviceType::virtual_gpu;
        default:
            return DeviceType::software;
    }
}

std::string versionText(uint32_t v) {
    return fmt::format("{}.{}.{}", VK_API_VERSION_MAJOR(v), VK_API_VERSION_MINOR(v), VK_API_VERSION_PATCH(v));
}

std::string hex(const uint8_t* bytes, size_t count) {
    std::string text;
    for (size_t i = 0; i < count; ++i) text += fmt::format("{:02x}", bytes[i]);
    return text;
}

// Of a device of Vulkan 1.3; of an older one there are none.
struct Features {
    VkPhysicalDeviceVulkan13Features v13{VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_3_FEATURES};
    VkPhysicalDeviceVulkan12Features v12{VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_FEATURES, &v13};
    VkPhysicalDeviceFeatures2 base{VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2, &v12};
};

struct Properties {
    VkPhysicalDeviceVulkan13Properties v13{VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_3_PROPERTIES};
    VkPhysicalDeviceVulkan12Properties v12{VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_PROPERTIES, &v13};
    VkPhysicalDeviceVulkan11Properties v11{VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_1_PROPERTIES, &v12};
    VkPhysicalDeviceProperties2 base{VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2, &v11};
};

uint64_t largestLocalHeap(VkPhysicalDevice device) {
    VkPhysicalDeviceMemoryProperties memory;
    vkGetPhysicalDeviceMemoryProperties(device, &memory);
    uint64_t largest = 0;
    for (uint32_t i = 0; i < memory.memoryHeapCount; ++i)
        if (memory.memoryHeaps[i].flags & VK_MEMORY_HEAP_DEVICE_LOCAL_BIT)
            largest = std::max(largest, memory.memoryHeaps[i].size);
    return largest;
}

DeviceLimits limitsOf(const Properties& p, const Features& features, uint64_t heap) {
    const VkPhysicalDeviceLimits& limits = p.base.properties.limits;
    constexpr VkSubgroupFeatureFlags kMovesLanes = VK_SUBGROUP_FEATURE_BALLOT_BIT | VK_SUBGROUP_FEATURE_SHUFFLE_BIT;
    DeviceLimits out;
    out.memory_budget = heap / 10 * 9;
    uint64_t largest_buffer = p.v13.maxBufferSize ? p.v13.maxBufferSize : p.v11.maxMemoryAllocationSize;
    out.max_allocation = std::min({largest_buffer, p.v11.maxMemoryAllocationSize, uint64_t{1} << 30});
    out.max_groups = std::min({limits.maxComputeWorkGroupCount[0], limits.maxComputeWorkGroupCount[1], 65535u});
    out.max_invocations = std::min(limits.maxComputeWorkGroupInvocations, limits.maxComputeWorkGroupSize[0]);
    out.shared_memory = limits.maxComputeSharedMemorySize;
    out.subgroup_size = p.v11.subgroupSize;
    out.subgroup_broadcast = (p.v11.subgroupSupportedStages & VK_SHADER_STAGE_COMPUTE_BIT) &&
                             (p.v11.subgroupSupportedOperations & kMovesLanes) == kMovesLanes &&
                             features.base.features.shaderInt64 && features.v12.shaderSubgroupExtendedTypes;
    bool independent = p.v12.roundingModeIndependence != VK_SHADER_FLOAT_CONTROLS_INDEPENDENCE_NONE;
    out.round_to_nearest = independent && p.v12.shaderRoundingModeRTEFloat32;
    out.preserve_special = p.v12.shaderSignedZeroInfNanPreserveFloat32;
    return out;
}

// What DeviceLimits says of importing; 0 where buffers of host memory cannot be had.
uint64_t hostImportAlignment(VkPhysicalDevice device, Faults* faults) {
    bool has =
        hasExtension(VK_EXT_EXTERNAL_MEMORY_HOST_EXTENSION_NAME, [&](uint32_t* count, VkExtensionProperties* found) {
            return faultOr(faults, [&] { return vkEnumerateDeviceExtensionProperties(device, nullptr, count, found); });
        });
    if (!has) return 0;
    VkPhysicalDeviceExternalBufferInfo buffer{VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_EXTERNAL_BUFFER_INFO};
    buffer.usage = kBufferUsage;
    buffer.handleType = VK_EXTERNAL_MEMORY_HANDLE_TYPE_HOST_ALLOCATION_BIT_EXT;
    VkExternalBufferProperties can{VK_STRUCTURE_TYPE_EXTERNAL_BUFFER_PROPERTIES};
    vkGetPhysicalDeviceExternalBufferProperties(device, &buffer, &can);
    if (!(can.externalMemoryProperties.externalMemoryFeatures & VK_EXTERNAL_MEMORY_FEATURE_IMPORTABLE_BIT)) return 0;
    VkPhysicalDeviceExternalMemoryHostPropertiesEXT host{
        VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_EXTERNAL_MEMORY_HOST_PROPERTIES_EXT};
    VkPhysicalDeviceProperties2 properties{VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2, &host};
    vkGetPhysicalDeviceProperties2(device, &properties);
    return std::max<uint64_t>(host.minImportedHostPointerAlignment, 256);
}

std::vector<VkQueueFamilyProperties> queueFamilies(VkPhysicalDevice device) {
    uint32_t count = 0;
    vkGetPhysicalDeviceQueueFamilyProperties(device, &count, nullptr);
    std::vector<VkQueueFamilyProperties> families(count);
    vkGetPhysicalDeviceQueueFamilyProperties(device, &count, families.data());
    return families;
}

// The dedicated compute family if there is one, else any with compute; -1: none.
int computeFamily(const std::vector<VkQueueFamilyProperties>& families) {
    int found = -1;
    for (uint32_t i = 0; i < families.size(); ++i) {
        if (!(families[i].queueFlags & VK_QUEUE_COMPUTE_BIT) || families[i].queueCount == 0) continue;
        if (!(families[i].queueFlags & VK_QUEUE_GRAPHICS_BIT)) return int(i);
        if (found < 0) found = int(i);
    }
    return found;
}

// The family that can do least beside transfers (others decode video, too), else a second queue of the compute family.
std::optional<PhysicalDevice::TransferQueue> transferQueue(const std::vector<VkQueueFamilyProperties>& families,
                                                           uint32_t compute) {
    std::optional<PhysicalDevice::TransferQueue> found;
    int least = std::numeric_limits<int>::max();
    for (uint32_t i = 0; i < families.size(); ++i) {
        VkQueueFlags flags = families[i].queueFlags;
        bool alone = (flags & VK_QUEUE_TRANSFER_BIT) && !(flags & (VK_QUEUE_COMPUTE_BIT | VK_QUEUE_GRAPHICS_BIT));
        if (!alone || families[i].queueCount == 0 || std::popcount(flags) >= least) continue;
        least = std::popcount(flags);
        found = {i, 0};
    }
    if (!found && compute < families.size() && families[compute].queueCount > 1) found = {compute, 1};
    return found;
}

std::string whatIsMissing(const Features& features, uint32_t api, int family) {
    if (api < VK_API_VERSION_1_3) return fmt::format("Vulkan {} is below 1.3", versionText(api));
    if (family < 0) return "no queue with compute";
    const auto& v12 = features.v12;
    const auto& v13 = features.v13;
    if (!v12.bufferDeviceAddress) return "no bufferDeviceAddress";
    if (!v12.timelineSemaphore) return "no timelineSemaphore";
    if (!v12.scalarBlockLayout) return "no scalarBlockLayout";
    if (!v13.synchronization2) return "no synchronization2";
    if (!v13.maintenance4) return "no maintenance4";
    return "";
}

PhysicalDevice describe(VkPhysicalDevice handle, Faults* faults) {
    PhysicalDevice device;
    device.handle = handle;
    VkPhysicalDeviceProperties basic;
    vkGetPhysicalDeviceProperties(handle, &basic);
    DeviceInfo& info = device.candidate.info;
    info.name = basic.deviceName;
    info.type = typeOf(basic.deviceType);
    info.api = versionText(basic.apiVersion);
    info.memory = largestLocalHeap(handle);
    const auto families = queueFamilies(handle);
    int family = computeFamily(families);
    Features features;
    if (basic.apiVersion >= VK_API_VERSION_1_3) vkGetPhysicalDeviceFeatures2(handle, &features.base);
    device.candidate.unusable = whatIsMissing(features, basic.apiVersion, family);
    device.queue_family = uint32_t(std::max(family, 0));
    device.transfer_queue = transferQueue(families, device.queue_family);
    device.vendor = basic.vendorID;
    device.device = basic.deviceID;
    std::copy_n(basic.pipelineCacheUUID, VK_UUID_SIZE, device.pipeline_cache_uuid.begin());
    if (basic.apiVersion < VK_API_VERSION_1_3) return device;
    Properties p;
    vkGetPhysicalDeviceProperties2(handle, &p.base);
    info.driver = fmt::format("{} {}", p.v12.driverName, p.v12.driverInfo);
    info.limits = limitsOf(p, features, info.memory);
    info.limits.host_import_alignment = hostImportAlignment(handle, faults);
    const char* width = std::getenv("LP_NATIVE_VECTOR_WIDTH");
    info.identity = fmt::format("{:08x}:{:08x}:{:08x}:{}:{}:{}:{}", basic.vendorID, basic.deviceID, basic.driverVersion,
                                info.driver, hex(p.v11.deviceUUID, VK_UUID_SIZE),
                                hex(basic.pipelineCacheUUID, VK_UUID_SIZE), width ? width : "");
    return device;
}

}  // namespace

Result<Instance> Instance::create(Faults* faults) {
    static std::mutex loading;  // volk keeps the instance's functions in globals
    std::lock_guard lock(loading);
    VKMOE_CHECK(loadLoader());
    if (volkGetInstanceVersion() < VK_API_VERSION_1_3)
        return Error{ErrorCode::no_device, fmt::format("the Vulkan loader is version {}, 1.3 is needed",
                                                       versionText(volkGetInstanceVersion()))};
    bool debug_names = hasInstanceExtension(VK_EXT_DEBUG_UTILS_EXTENSION_NAME, faults);
    const char* extensions[] = {VK_EXT_DEBUG_UTILS_EXTENSION_NAME};
    VkApplicationInfo application{VK_STRUCTURE_TYPE_APPLICATION_INFO};
    application.pApplicationName = application.pEngineName = "vkmoe";
    application.apiVersion = VK_API_VERSION_1_3;
    VkInstanceCreateInfo create{VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO};
    create.pApplicationInfo = &application;
    create.enabledExtensionCount = debug_names ? 1 : 0;
    create.ppEnabledExtensionNames = extensions;
    VkInstance handle = VK_NULL_HANDLE;
    VkResult result = faultOr(faults, [&] { return vkCreateInstance(&create, nullptr, &handle); });
    if (result == VK_ERROR_INCOMPATIBLE_DRIVER)
        return Error{ErrorCode::no_device, "the Vulkan loader found no driver", int(result)};
    if (result != VK_SUCCESS) {
        Error error = vulkanError(
            result, "the Vulkan loader could not create an instance (a malformed driver manifest can cause this)");
        error.code = ErrorCode::no_device;
        return error;
    }
    volkLoadInstanceOnly(handle);
    return Instance(handle, debug_names);
}

Instance::~Instance() {
    if (handle_) vkDestroyInstance(handle_, nullptr);
}

Result<std::vector<PhysicalDevice>> Instance::physicalDevices(Faults* faults) const {
    uint32_t count = 0;
    VKMOE_VK(faultOr(faults, [&] { return vkEnumeratePhysicalDevices(handle_, &count, nullptr); }),
             "listing Vulkan devices");
    std::vector<VkPhysicalDevice> handles(count);
    VkResult result = faultOr(faults, [&] { return vkEnumeratePhysicalDevices(handle_, &count, handles.data()); });
    if (result != VK_SUCCESS && result != VK_INCOMPLETE) return vulkanError(result, "listing Vulkan devices");
    handles.resize(count);
    std::vector<PhysicalDevice> devices;
    for (VkPhysicalDevice handle : handles) devices.push_back(describe(handle, faults));
    std::stable_sort(devices.begin(), devices.end(), [](const PhysicalDevice& a, const PhysicalDevice& b) {
        return a.candidate.info.type < b.candidate.info.type;
    });
    return devices;
}

Result<std::vector<VulkanCandidate>> listVulkanDevices() {
    VKMOE_TRY(instance, Instance::create());
    VKMOE_TRY(devices, instance.physicalDevices());
    std::vector<VulkanCandidate> candidates;
    for (auto& device : devices) candidates.push_back(std::move(device.candidate));
    return candidates;
}

}  // namespace v1
}  // namespace vkmoe
