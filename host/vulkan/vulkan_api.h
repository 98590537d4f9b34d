// The only way to Vulkan in this repository: volk's function pointers, VMA, and VkResult as Error.
#pragma once

#define VK_NO_PROTOTYPES
#include <volk.h>

#define VMA_STATIC_VULKAN_FUNCTIONS 0
#define VMA_DYNAMIC_VULKAN_FUNCTIONS 1
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wpragmas"
#pragma GCC diagnostic ignored "-Wall"
#pragma GCC diagnostic ignored "-Wextra"
#pragma GCC diagnostic ignored "-Wshadow"
#pragma GCC diagnostic ignored "-Wunused-parameter"
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"
#include <vk_mem_alloc.h>
#pragma GCC diagnostic pop

#include <string>

#include "host/result.h"

namespace vkmoe {
inline namespace v1 {

// "what failed: VK_ERROR_..."; out-of-memory and device-lost results get their own codes.
Error vulkanError(VkResult result, const std::string& what);

}  // namespace v1
}  // namespace vkmoe

// Returns the error from this function when a Vulkan call does not succeed.
#define VKMOE_VK(call, what)                                                                           \
    do {                                                                                               \
        if (VkResult vk_result = (call); vk_result != VK_SUCCESS) return vulkanError(vk_result, what); \
    } while (false)
