// The Vulkan device: memory from VMA with addresses, one pipeline layout for every kernel, a queue for work
// and, where there is another, one for transfers beside it.
#pragma once

#include "host/device.h"
#include "host/faults.h"
#include "host/vulkan/instance.h"
#include "host/vulkan/vulkan_queue.h"

namespace vkmoe {
inline namespace v1 {

class VulkanDevice final : public Device {
public:
    VulkanDevice(Instance instance, PhysicalDevice physical, const DeviceOptions& options);
    ~VulkanDevice() override;

    Result<void> open();
    Result<uint64_t> passed() override;
    Result<uint64_t> transferred() override;

private:
    Result<Block> allocateBlock(uint64_t bytes, Memory memory, const std::string& what) override;
    Result<Block> importBlock(std::span<std::byte> memory, const std::string& what) override;
    Result<Block> allocateOwn(uint64_t bytes, const std::string& what);
    void releaseBlock(const Block& block, uint64_t bytes) override;
    Result<uint64_t> buildPipeline(const KernelCode& code, const ConstantWords& constants) override;
    Result<uint64_t> submitWork(const Commands& commands) override;
    Result<void> waitFor(uint64_t value) override;
    Result<uint64_t> submitTransfer(const Commands& copies, uint64_t after) override;

    Result<void> createDevice();
    Result<void> createAllocator();
    Result<void> createLayoutAndCache();
    Result<void> createQueues();
    Result<void> waitForAll();
    void shareQueues(VkBufferCreateInfo& create);
    Result<void> record(VkCommandBuffer command, const Commands& commands);
    Result<void> recordDispatch(VkCommandBuffer command, const Commands::Operation& operation);
    void recordBarrier(VkCommandBuffer command, VkPipelineStageFlags2 to, VkAccessFlags2 access);
    void recordCopy(VkCommandBuffer command, const Commands::Operation& operation);
    void collect(uint64_t value, uint64_t transferred);
    void collectAll() { collect(UINT64_MAX, UINT64_MAX); }
    void freeBlock(const Block& block);
    uint64_t addressOf(VkBuffer buffer);
    Result<uint32_t> importType(VkBuffer buffer, std::span<std::byte> memory, const std::string& what);
    Result<VkDeviceMemory> importMemory(VkBuffer buffer, std::span<std::byte> memory, const std::string& what);
    bool drain();
    void storeCache();
    void nameObject(VkObjectType type, uint64_t handle, const char* name);
    Error failure(VkResult result, const std::string& what);

    struct Retired {
        uint64_t value = 0, transfer = 0;  // once both have passed
        uint64_t bytes = 0;
        Block block;
    };

    Instance instance_;
    PhysicalDevice physical_;
    std::string cache_path_, break_kernel_;
    std::shared_ptr<Faults> faults_;
    VolkDeviceTable vk_{};
    VkDevice device_ = VK_NULL_HANDLE;
    VulkanQueue work_, transfers_;
    std::vector<uint32_t> families_;  // of the queues
    VmaAllocator allocator_ = VK_NULL_HANDLE;
    VkPipelineLayout layout_ = VK_NULL_HANDLE;
    VkPipelineCache cache_ = VK_NULL_HANDLE;
    std::vector<VkPipeline> pipelines_;
    std::vector<Retired> retired_;
    bool idle_for_good_ = false;  // lost, and nothing of it runs any more
};

}  // namespace v1
}  // namespace vkmoe
