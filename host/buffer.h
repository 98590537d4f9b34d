// Buffer: memory of a device with an address that kernels read, and the ledger that keeps its budget.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "host/result.h"

namespace vkmoe {
inline namespace v1 {

class Device;

enum class Memory {
    device,    // fastest for kernels; the host reaches it through copies only
    upload,    // written by the host, read by copies
    download,  // written by copies, read by the host
    host,  // fast for the host, read by kernels in place: the process's own where the device imports it, else download
};

// Whose memory a buffer is.
enum class Backing {
    driver,    // allocated by the driver
    imported,  // the caller's (Device::import)
    own,       // the process's, allocated for the buffer and imported
};

// Counts the bytes a device has given out and refuses what exceeds the budget (drivers over-commit). Memory of the
// process that a device imported is counted as pinned, too; a caller's (Device::import) as pinned alone, without a
// budget.
class Ledger {
public:
    explicit Ledger(uint64_t budget) : budget_(budget) {}
    Result<void> take(uint64_t bytes, const std::string& what);
    void give(uint64_t bytes) { used_ -= bytes; }
    uint64_t used() const { return used_; }
    uint64_t peak() const { return peak_; }
    void pin(uint64_t bytes);
    void unpin(uint64_t bytes) { pinned_ -= bytes; }
    uint64_t pinned() const { return pinned_; }
    uint64_t pinnedPeak() const { return pinned_peak_; }
    uint64_t budget() const { return budget_; }
    uint64_t left() const {
        const uint64_t used = used_;
        return used < budget_ ? budget_ - used : 0;
    }

private:
    std::atomic<uint64_t> used_{0}, peak_{0}, pinned_{0}, pinned_peak_{0};
    uint64_t budget_;
};

// Owns device memory. Move-only. Destroying it while the device still uses it is fine: the memory is reused only when
// the timeline has passed the last submit made before.
class Buffer {
public:
    Buffer() = default;
    Buffer(Buffer&& other) noexcept { *this = std::move(other); }
    Buffer& operator=(Buffer&& other) noexcept;
    ~Buffer() { reset(); }

    explicit operator bool() const { return device_ != nullptr; }
    uint64_t address() const { return address_; }  // what kernels use; a host pointer on the CPU device
    uint64_t size() const { return size_; }        // bytes, those asked for rounded up to 256
    std::span<std::byte> mapped() const {
        return {static_cast<std::byte*>(mapped_), mapped_ ? size_ : 0};
    }                                            // all but Memory::device
    uint64_t native() const { return native_; }  // VkBuffer, 0 on the CPU

    // The address of byte `offset` as a typed pointer of params.h, e.g. buffer.at<F32>(64).
    template <class Pointer>
    Pointer at(uint64_t offset = 0) const {
        Pointer pointer;
        pointer.at = reinterpret_cast<decltype(pointer.at)>(static_cast<uintptr_t>(address_ + offset));
        return pointer;
    }

    void reset();

private:
    friend class Device;
    Device* device_ = nullptr;
    uint64_t address_ = 0, size_ = 0, native_ = 0;
    void* mapped_ = nullptr;
    void* allocation_ = nullptr;  // VmaAllocation, VkDeviceMemory of imported memory, or the host block
    Backing backing_ = Backing::driver;
};

}  // namespace v1
}  // namespace vkmoe
