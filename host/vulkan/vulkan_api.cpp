#define VOLK_IMPLEMENTATION
#define VMA_IMPLEMENTATION
#include "host/vulkan/vulkan_api.h"

#include <fmt/format.h>

namespace vkmoe {
inline namespace v1 {
namespace {

const char* resultName(VkResult result) {
    switch (result) {
        case VK_ERROR_OUT_OF_HOST_MEMORY:
            return "VK_ERROR_OUT_OF_HOST_MEMORY";
        case VK_ERROR_OUT_OF_DEVICE_MEMORY:
            return "VK_ERROR_OUT_OF_DEVICE_MEMORY";
        case VK_ERROR_INITIALIZATION_FAILED:
            return "VK_ERROR_INITIALIZATION_FAILED";
        case VK_ERROR_DEVICE_LOST:
            return "VK_ERROR_DEVICE_LOST";
        case VK_ERROR_MEMORY_MAP_FAILED:
            return "VK_ERROR_MEMORY_MAP_FAILED";
        case VK_ERROR_LAYER_NOT_PRESENT:
            return "VK_ERROR_LAYER_NOT_PRESENT";
        case VK_ERROR_EXTENSION_NOT_PRESENT:
            return "VK_ERROR_EXTENSION_NOT_PRESENT";
        case VK_ERROR_FEATURE_NOT_PRESENT:
            return "VK_ERROR_FEATURE_NOT_PRESENT";
        case VK_ERROR_INVALID_EXTERNAL_HANDLE:
            return "VK_ERROR_INVALID_EXTERNAL_HANDLE";
        case VK_ERROR_INCOMPATIBLE_DRIVER:
            return "VK_ERROR_INCOMPATIBLE_DRIVER";
        case VK_ERROR_TOO_MANY_OBJECTS:
            return "VK_ERROR_TOO_MANY_OBJECTS";
        case VK_TIMEOUT:
            return "VK_TIMEOUT";
        default:
            return nullptr;
    }
}

ErrorCode codeOf(VkResult result) {
    switch (result) {
        case VK_ERROR_OUT_OF_HOST_MEMORY:
        case VK_ERROR_OUT_OF_DEVICE_MEMORY:
            return ErrorCode::out_of_memory;
        case VK_ERROR_DEVICE_LOST:
            return ErrorCode::device_lost;
        case VK_ERROR_INVALID_EXTERNAL_HANDLE:
            return ErrorCode::unsupported;
        default:
            return ErrorCode::internal;
    }
}

}  // namespace

Error vulkanError(VkResult result, const std::string& what) {
    const char* known = resultName(result);
    return {codeOf(result), fmt::format("{}: {}", what, known ? known : fmt::format("VkResult {}", int(result))),
            int(result)};
}

}  // namespace v1
}  // namespace vkmoe
