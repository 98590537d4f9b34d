// Vulkan's functions carry no pointer of ours: handles (device, queue, command buffers) lead to the device's Faults.
#include "host/vulkan/faults.h"

#include <map>
#include <mutex>

namespace vkmoe {
inline namespace v1 {
namespace {

struct Installed {
    std::shared_ptr<Faults> faults;
    VolkDeviceTable real;
};

std::mutex mutex;

std::map<const void*, std::shared_ptr<const Installed>>& byHandle() {
    static std::map<const void*, std::shared_ptr<const Installed>> all;
    return all;
}

std::shared_ptr<const Installed> find(const void* handle) {
    std::lock_guard lock(mutex);
    return byHandle().at(handle);
}

template <auto entry, FaultyCall kind, class Function>
struct Wrapper;

// The table's `entry`, which counts as `kind`.
template <auto entry, FaultyCall kind, class Handle, class... Rest>
struct Wrapper<entry, kind, VkResult(VKAPI_PTR*)(Handle, Rest...)> {
    static VKAPI_ATTR VkResult VKAPI_CALL call(Handle handle, Rest... rest) {
        auto installed = find(handle);
        Fault fault = installed->faults->next(kind);
        return fault == Fault::none ? (installed->real.*entry)(handle, rest...) : VkResult(fault);
    }
};

template <auto entry, FaultyCall kind = FaultyCall::any>
void wrap(VolkDeviceTable& table) {
    using Function = std::remove_reference_t<decltype(table.*entry)>;
    if (table.*entry) table.*entry = Wrapper<entry, kind, Function>::call;
}

// The work of a device that pretends to fail goes on: what it tells must be as true as a real device's word.
VKAPI_ATTR VkResult VKAPI_CALL waitIdle(VkDevice device) {
    auto installed = find(device);
    VkResult result = installed->real.vkDeviceWaitIdle(device);
    Fault fault = installed->faults->next(FaultyCall::drain);
    return fault == Fault::none ? result : VkResult(fault);
}

VKAPI_ATTR VkResult VKAPI_CALL allocateCommandBuffers(VkDevice device, const VkCommandBufferAllocateInfo* info,
                                                      VkCommandBuffer* buffers) {
    auto installed = find(device);
    if (Fault fault = installed->faults->next(FaultyCall::any); fault != Fault::none) return VkResult(fault);
    VkResult result = installed->real.vkAllocateCommandBuffers(device, info, buffers);
    std::lock_guard lock(mutex);
    for (uint32_t i = 0; result == VK_SUCCESS && i < info->commandBufferCount; ++i) byHandle()[buffers[i]] = installed;
    return result;
}

}  // namespace

void installFaults(VolkDeviceTable& table, VkDevice device, std::shared_ptr<Faults> faults) {
    using Table = VolkDeviceTable;
    auto installed = std::make_shared<const Installed>(Installed{std::move(faults), table});
    wrap<&Table::vkAllocateMemory, FaultyCall::allocation>(table);
    wrap<&Table::vkQueueSubmit2, FaultyCall::submit>(table);
    wrap<&Table::vkWaitSemaphores, FaultyCall::wait>(table);
    wrap<&Table::vkBeginCommandBuffer>(table);
    wrap<&Table::vkBindBufferMemory>(table);
    wrap<&Table::vkBindBufferMemory2>(table);
    wrap<&Table::vkCreateBuffer>(table);
    wrap<&Table::vkCreateCommandPool>(table);
    wrap<&Table::vkCreateComputePipelines>(table);
    wrap<&Table::vkCreatePipelineCache>(table);
    wrap<&Table::vkCreatePipelineLayout>(table);
    wrap<&Table::vkCreateSemaphore>(table);
    wrap<&Table::vkCreateShaderModule>(table);
    wrap<&Table::vkEndCommandBuffer>(table);
    wrap<&Table::vkGetMemoryHostPointerPropertiesEXT>(table);
    wrap<&Table::vkGetPipelineCacheData>(table);
    wrap<&Table::vkGetSemaphoreCounterValue>(table);
    wrap<&Table::vkMapMemory>(table);
    table.vkDeviceWaitIdle = waitIdle;
    table.vkAllocateCommandBuffers = allocateCommandBuffers;
    std::lock_guard lock(mutex);
    byHandle()[device] = installed;
}

void addFaultyQueue(VkDevice device, VkQueue queue) {
    auto installed = find(device);
    std::lock_guard lock(mutex);
    byHandle()[queue] = installed;
}

void removeFaults(VkDevice device) {
    std::lock_guard lock(mutex);
    auto found = byHandle().find(device);
    if (found == byHandle().end()) return;
    std::erase_if(byHandle(), [gone = found->second](const auto& entry) { return entry.second == gone; });
}

}  // namespace v1
}  // namespace vkmoe
