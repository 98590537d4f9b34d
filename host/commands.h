// Commands: a list of work for a device, recorded as plain data and submitted as one.
//
//     commands.dispatch(kernel, params, threads);
//     commands.barrier();
//     commands.copy(y, 0, readback, 0, bytes);
//
// Operations between two barriers may run in any order or at once. Buffers and kernels must outlive the submit call;
// after it the timeline value guards them.
#pragma once

#include <algorithm>
#include <cassert>
#include <cstring>
#include <vector>

#include "host/buffer.h"
#include "host/kernel.h"

namespace vkmoe {
inline namespace v1 {

class Commands {
public:
    enum class Kind { dispatch, dispatch_indirect, copy, fill, update, barrier };

    struct Operation {
        Kind kind = Kind::barrier;
        const Kernel* kernel = nullptr;
        std::array<std::byte, kMaxParamsSize> params{};  // dispatch: what is pushed; update: the bytes
        uint64_t groups = 0;                             // dispatch: workgroups
        const Buffer* from = nullptr;                    // copy: source; dispatch_indirect: the sizes
        const Buffer* to = nullptr;                      // copy, fill, update: target
        uint64_t from_offset = 0, to_offset = 0, bytes = 0;
        uint32_t word = 0;  // fill
    };

    // Runs `threads` invocations of the kernel, rounded up to whole workgroups.
    template <class Params>
    void dispatch(const Kernel& kernel, const Params& params, uint64_t threads) {
        if (threads == 0) return;
        Operation& operation = add(kernel, params, Kind::dispatch);
        operation.groups = (threads + kWorkgroupSize - 1) / kWorkgroupSize;
    }

    // The same with the bytes of the parameters already at hand.
    void dispatchRaw(const Kernel& kernel, std::span<const std::byte> params, uint64_t threads);

    // The number of workgroups is read from three words (x, y, z) at `offset` of `sizes` when the device gets there.
    template <class Params>
    void dispatchIndirect(const Kernel& kernel, const Params& params, const Buffer& sizes, uint64_t offset) {
        Operation& operation = add(kernel, params, Kind::dispatch_indirect);
        operation.from = &sizes;
        operation.from_offset = offset;
    }

    // What was recorded before is finished, and its writes visible, before what is recorded after starts.
    void barrier() { add(Kind::barrier); }

    void copy(const Buffer& from, uint64_t from_offset, const Buffer& to, uint64_t to_offset, uint64_t bytes);
    // Sets every word of [offset, offset+bytes); both multiples of 4.
    void fill(const Buffer& to, uint64_t offset, uint64_t bytes, uint32_t word);

    // Writes bytes that the list carries itself: they are as they were when recorded. For a few, such as addresses in a
    // page table; offset and size are multiples of 4.
    void update(const Buffer& to, uint64_t offset, std::span<const std::byte> bytes);

    // The list starts once this transfer (Device::transfer) is finished, and sees what it wrote.
    void awaitTransfer(uint64_t value) { awaited_ = std::max(awaited_, value); }

    // Adds another list's operations after these.
    void append(const Commands& other) {
        operations_.insert(operations_.end(), other.operations_.begin(), other.operations_.end());
        awaitTransfer(other.awaited_);
    }

    const std::vector<Operation>& operations() const { return operations_; }
    bool empty() const { return operations_.empty(); }
    uint64_t awaitedTransfer() const { return awaited_; }  // 0: none

private:
    template <class Params>
    Operation& add(const Kernel& kernel, const Params& params, Kind kind) {
        static_assert(sizeof(Params) <= kMaxParamsSize && sizeof(Params) % 8 == 0, "pad parameter structs to 8 bytes");
        return add(kernel, &params, sizeof(Params), kind);
    }
    Operation& add(const Kernel& kernel, const void* params, size_t size, Kind kind);
    Operation& add(Kind kind);

    std::vector<Operation> operations_;
    uint64_t awaited_ = 0;
};

}  // namespace v1
}  // namespace vkmoe
