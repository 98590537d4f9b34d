// The pipeline cache on disk: the driver's bytes behind a header of our own, so that a foreign, truncated or damaged
// file never reaches a driver.
#pragma once

#include <string>
#include <vector>

#include "host/vulkan/instance.h"

namespace vkmoe {
inline namespace v1 {

// The file of this device in `folder`.
std::string pipelineCachePath(const std::string& folder, const PhysicalDevice& device);

// The driver's bytes, or none when the file is absent or is not exactly what was stored for this device and driver.
std::vector<std::byte> loadPipelineCache(const std::string& path, const PhysicalDevice& device);

Result<void> storePipelineCache(const std::string& path, const PhysicalDevice& device,
                                std::span<const std::byte> bytes);

}  // namespace v1
}  // namespace vkmoe
