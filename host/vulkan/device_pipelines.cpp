// A Vulkan device's pipelines: a shader, the float modes the device can do, and its constants.
#include <fmt/format.h>

#include <tuple>

#include "host/vulkan/spirv_rewrite.h"
#include "host/vulkan/vulkan_device.h"

namespace vkmoe {
inline namespace v1 {

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

}  // namespace v1
}  // namespace vkmoe
