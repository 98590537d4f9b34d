// Device: where kernels run. Two implementations, Vulkan and CPU; code above cannot tell which it has.
//
// One device serves one thread at a time (engines serialise their calls). Every call that the world can make fail
// returns a Result. Destroying a device waits for its work; its buffers must be gone by then.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "host/buffer.h"
#include "host/commands.h"
#include "host/kernel.h"
#include "host/result.h"

namespace vkmoe {
inline namespace v1 {

class Faults;

enum class DeviceType { discrete, integrated, virtual_gpu, software, cpu };
const char* name(DeviceType type);

// What a device can do, as read from it; a test may lower any of it (DeviceOptions::clamp).
struct DeviceLimits {
    uint64_t memory_budget = 0;      // bytes the ledger allows
    uint64_t max_allocation = 0;     // bytes of one buffer
    uint32_t max_groups = 65535;     // workgroups per grid dimension
    uint32_t max_invocations = 128;  // of a workgroup
    uint32_t shared_memory = 16384;  // bytes of a workgroup
    uint32_t subgroup_size = 0;
    bool subgroup_broadcast = false;  // compute shaders have 64-bit integers and move them from lane to lane
    bool round_to_nearest = false;    // the shader may ask for RoundingModeRTE 32
    bool preserve_special = false;    // ... for SignedZeroInfNanPreserve 32
    // Device::import takes addresses and sizes that are multiples of this; 0: it takes none. A clamp may raise it.
    uint64_t host_import_alignment = 0;
};

struct DeviceInfo {
    std::string name;
    DeviceType type = DeviceType::cpu;
    std::string api, driver;  // versions, for people
    std::string identity;     // driver, device and pipeline cache UUIDs: what a cached verdict is valid for
    uint64_t memory = 0;      // bytes of the largest device-local heap; RAM on the CPU
    DeviceLimits limits;
};

struct DeviceOptions {
    std::optional<DeviceLimits> clamp;  // the smaller of each limit and this holds
    uint32_t threads = 0;               // CPU: 0 = all
    bool simd = true;                   // CPU: use the SIMD twins
    // CPU: run what stands between two barriers one by one, the last first (shows a missing barrier).
    bool backwards = false;
    // For tests: transfers where there is no queue for them. Vulkan: they go to the one queue, with their own timeline.
    // CPU: they run as late as what is told of them allows (shows work that should have awaited one).
    bool emulate_transfer_queue = false;
    std::string break_kernel;  // Vulkan: subtract where this kernel's shader adds (shows that probes notice)
    std::string cache_folder;  // pipeline cache and verdicts; empty: none are kept
    // For tests: calls that fail (host/faults.h). Null: only those that fail by themselves.
    std::shared_ptr<Faults> faults;
};

// What a device has done so far.
struct DeviceCounters {
    uint64_t submits = 0, waits = 0, dispatches = 0, transfers = 0;
};

// What an allocation of so many bytes takes of the budget.
constexpr uint64_t allocatedBytes(uint64_t bytes) { return bytes < 256 ? 256 : (bytes + 255) / 256 * 256; }

class Device {
public:
    virtual ~Device() = default;
    Device(const Device&) = delete;
    Device& operator=(const Device&) = delete;

    const DeviceInfo& info() const { return info_; }
    Ledger& ledger() { return ledger_; }
    // Of what the host sees (Memory::upload, download, host): its own where the device's memory is apart from the
    // host's, else the same.
    Ledger& hostLedger() { return ownMemory() ? host_ledger_ : ledger_; }
    // The device has memory of its own, apart from the host's.
    bool ownMemory() const { return info_.type == DeviceType::discrete || info_.type == DeviceType::virtual_gpu; }
    const DeviceCounters& counters() const { return counters_; }

    // Memory of at least one byte, 256-byte aligned, contents unspecified. `what` names it in errors.
    Result<Buffer> allocate(uint64_t bytes, Memory memory, const std::string& what);

    // Host memory as a buffer, in place: kernels and copies read and write `memory` itself, which is mapped() too. The
    // device does not own it: it must stay until the timeline has passed all work submitted before the buffer is
    // destroyed. It counts as pinned in the ledger, not as used. Errors: unsupported where limits say so, or where the
    // driver refuses this memory (memory that cannot be written, for one); bad_input for a misaligned range.
    Result<Buffer> import(std::span<std::byte> memory, const std::string& what);

    // Builds a kernel for these constants, or finds the one built before. Valid as long as the device.
    Result<const Kernel*> build(const KernelCode& code, const ConstantWords& constants);

    // Starts the work; the value passes on the timeline when it is finished, after all work submitted before.
    Result<uint64_t> submit(const Commands& commands);

    // Waits until the timeline has passed `value`.
    Result<void> wait(uint64_t value);

    // There is a queue for transfers, which may run beside other work.
    bool transferQueue() const { return transfer_queue_; }
    // Starts copies on it, once the timeline of other work has passed `after`. The value passes on the timeline of
    // transfers, which other work does not wait for unless it says so (Commands::awaitTransfer).
    Result<uint64_t> transfer(const Commands& copies, uint64_t after);
    // The last transfer that has passed.
    virtual Result<uint64_t> transferred() = 0;

    // The last value that has passed.
    virtual Result<uint64_t> passed() = 0;

    // The driver lost the device: from then on its calls return device_lost at once. Its work counts as finished;
    // buffers may be destroyed, and nothing else is of use.
    bool lost() const { return lost_; }

protected:
    Device(DeviceInfo info);

    friend class Buffer;
    struct Block {
        uint64_t address = 0, native = 0;
        void* mapped = nullptr;
        void* allocation = nullptr;
        Backing backing = Backing::driver;
    };
    virtual Result<Block> allocateBlock(uint64_t bytes, Memory memory, const std::string& what) = 0;
    virtual Result<Block> importBlock(std::span<std::byte> memory, const std::string& what) = 0;
    // Once the timeline has passed every submit so far; the bytes go back to the ledger (giveBack) then.
    virtual void releaseBlock(const Block& block, uint64_t bytes) = 0;
    virtual Result<uint64_t> buildPipeline(const KernelCode& code, const ConstantWords& constants) = 0;
    virtual Result<uint64_t> submitWork(const Commands& commands) = 0;
    virtual Result<void> waitFor(uint64_t value) = 0;
    virtual Result<uint64_t> submitTransfer(const Commands& copies, uint64_t after) = 0;

    Error lostError() const;
    void giveBack(const Block& block, uint64_t bytes);

    DeviceInfo info_;
    Ledger ledger_, host_ledger_;
    DeviceCounters counters_;
    bool lost_ = false, transfer_queue_ = false;

private:
    Buffer bufferOf(const Block& block, uint64_t bytes);
    void release(Buffer& buffer);
    Result<void> checkOurs(const Commands& commands) const;
    std::map<std::pair<const KernelCode*, ConstantWords>, std::unique_ptr<Kernel>> kernels_;
};

// ---- choosing a device ----------------------------------------------------------------------------------------------

// The CPU as a device: a thread pool over the CPU twins.
std::unique_ptr<Device> openCpuDevice(const DeviceOptions& options = {});

// What the Vulkan loader offers, best first (discrete, integrated, virtual, software), unusable ones included with a
// reason.
struct VulkanCandidate {
    DeviceInfo info;
    std::string unusable;  // empty: usable; else what it lacks
};
Result<std::vector<VulkanCandidate>> listVulkanDevices();

// Opens candidate `index` of listVulkanDevices.
Result<std::unique_ptr<Device>> openVulkanDevice(uint32_t index, const DeviceOptions& options = {});

}  // namespace v1
}  // namespace vkmoe
