// Clamp: limits that make a device act as a poorer one, so that what runs here is known to run there.
#pragma once

#include <optional>
#include <string>

#include "host/device.h"

namespace vkmoe {
inline namespace v1 {

// From JSON such as {"memory_budget": 268435456, "subgroup_size": 4}: fields of DeviceLimits; one that is left out is
// not lowered. Errors: bad_input, for what is no such object; the sentence names the field.
Result<DeviceLimits> clampFromJson(const std::string& json);

// The environment's VKMOE_CLAMP, or nothing where it is not set.
Result<std::optional<DeviceLimits>> clampFromEnvironment();

}  // namespace v1
}  // namespace vkmoe
