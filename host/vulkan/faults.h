// Faults in Vulkan: wrappers in a device's table that ask a Faults before each call that can fail.
#pragma once

#include <memory>

#include "host/faults.h"
#include "host/vulkan/vulkan_api.h"

namespace vkmoe {
inline namespace v1 {

// Puts the wrappers into the table of a device, for as long as it exists.
void installFaults(VolkDeviceTable& table, VkDevice device, std::shared_ptr<Faults> faults);
void addFaultyQueue(VkDevice device, VkQueue queue);

// Before the device is destroyed.
void removeFaults(VkDevice device);

// A call of the loader, which belongs to no device yet; `faults` may be null.
template <class Call>
VkResult faultOr(Faults* faults, const Call& call) {
    Fault fault = faults ? faults->next(FaultyCall::any) : Fault::none;
    return fault == Fault::none ? call() : VkResult(fault);
}

}  // namespace v1
}  // namespace vkmoe
