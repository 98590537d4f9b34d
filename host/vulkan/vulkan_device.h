// The Vulkan device: memory from VMA with addresses, one pipeline layout for every kernel, one queue, one timeline.
#pragma once

#include <deque>

#include "host/device.h"
#include "host/faults.h"
#include "host/vulkan/instance.h"

namespace vkmoe {
inline namespace v1 {

class VulkanDevice final : public Device {
public:
    VulkanDevice(Instance instance, PhysicalDevice physical, const DeviceOptions& options);
    ~VulkanDevice() override;

    Result<void> open();
    Result<uint64_t> passed() override;

private:
    Result<Block> allocateBlock(uint64_t bytes, Memory memory, const std::string& what) override;
    Result<Block> importBlock(std::span<std::byte> memory, const std::string& what) override;
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
    void freeBlock(const Block& block);
    uint64_t addressOf(VkBuffer buffer);
    Result<uint32_t> importType(VkBuffer buffer, std::span<std::byte> memory, const std::string& what);
    Result<VkDeviceMemory> importMemory(VkBuffer buffer, std::span<std::byte> memory, const std::string& what);
    bool drain();
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
    std::shared_ptr<Faults> faults_;
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
    bool idle_for_good_ = false;  // lost, and nothing of it runs any more
};

}  // namespace v1
}  // namespace vkmoe
