#include "host/device.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>

#include "host/host_memory.h"

namespace vkmoe {
inline namespace v1 {

const char* name(DeviceType type) {
    switch (type) {
        case DeviceType::discrete:
            return "discrete";
        case DeviceType::integrated:
            return "integrated";
        case DeviceType::virtual_gpu:
            return "virtual";
        case DeviceType::software:
            return "software";
        case DeviceType::cpu:
            return "cpu";
    }
    return "?";
}

Result<void> Ledger::take(uint64_t bytes, const std::string& what) {
    uint64_t used = used_.load();
    do {
        if (bytes > budget_ || used > budget_ - bytes)
            return Error{
                ErrorCode::out_of_memory,
                fmt::format("{}: {} bytes asked, {} of the budget of {} bytes in use", what, bytes, used, budget_)};
    } while (!used_.compare_exchange_weak(used, used + bytes));
    uint64_t peak = peak_.load();
    while (peak < used + bytes && !peak_.compare_exchange_weak(peak, used + bytes)) {
    }
    return {};
}

void Ledger::pin(uint64_t bytes) {
    uint64_t now = pinned_ += bytes, peak = pinned_peak_.load();
    while (peak < now && !pinned_peak_.compare_exchange_weak(peak, now)) {
    }
}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
    if (this == &other) return *this;
    reset();
    device_ = std::exchange(other.device_, nullptr);
    address_ = std::exchange(other.address_, 0);
    size_ = std::exchange(other.size_, 0);
    native_ = std::exchange(other.native_, 0);
    mapped_ = std::exchange(other.mapped_, nullptr);
    allocation_ = std::exchange(other.allocation_, nullptr);
    backing_ = std::exchange(other.backing_, Backing::driver);
    return *this;
}

void Buffer::reset() {
    if (device_) device_->release(*this);
    device_ = nullptr;
    address_ = size_ = native_ = 0;
    mapped_ = allocation_ = nullptr;
    backing_ = Backing::driver;
}

Device::Device(DeviceInfo info)
    : info_(std::move(info)), ledger_(info_.limits.memory_budget), host_ledger_(hostMemory()) {}

// What the host sees was taken from the host's ledger.
void Device::giveBack(const Block& block, uint64_t bytes) {
    if (block.backing != Backing::driver) ledger_.unpin(bytes);
    if (block.backing == Backing::imported) return;
    (block.mapped ? hostLedger() : ledger_).give(bytes);
}

Result<Buffer> Device::allocate(uint64_t bytes, Memory memory, const std::string& what) {
    if (lost_) return lostError();
    if (bytes < uint64_t{1} << 62) bytes = allocatedBytes(bytes);
    if (bytes > info_.limits.max_allocation)
        return Error{ErrorCode::out_of_memory,
                     fmt::format("{}: {} bytes asked, one allocation of {} holds at most {} bytes", what, bytes,
                                 info_.name, info_.limits.max_allocation)};
    Ledger& ledger = memory == Memory::device ? ledger_ : hostLedger();
    VKMOE_CHECK(ledger.take(bytes, what));
    auto block = allocateBlock(bytes, memory, what);
    if (!block) {
        ledger.give(bytes);
        return std::move(block).error();
    }
    if (block->backing == Backing::own) ledger_.pin(bytes);
    return bufferOf(*block, bytes);
}

Result<Buffer> Device::import(std::span<std::byte> memory, const std::string& what) {
    if (lost_) return lostError();
    const uint64_t alignment = info_.limits.host_import_alignment, address = reinterpret_cast<uintptr_t>(memory.data());
    if (alignment == 0)
        return Error{ErrorCode::unsupported, fmt::format("{}: {} takes no memory of the host", what, info_.name)};
    if (memory.empty() || address % alignment != 0 || memory.size() % alignment != 0)
        return Error{ErrorCode::bad_input,
                     fmt::format("{}: {} bytes of the host's memory at 0x{:x}, {} takes multiples of {} bytes", what,
                                 memory.size(), address, info_.name, alignment)};
    if (memory.size() > info_.limits.max_allocation)
        return Error{ErrorCode::unsupported, fmt::format("{}: {} bytes of the host's memory, {} takes at most {}", what,
                                                         memory.size(), info_.name, info_.limits.max_allocation)};
    VKMOE_TRY(block, importBlock(memory, what));
    ledger_.pin(memory.size());
    return bufferOf(block, memory.size());
}

Buffer Device::bufferOf(const Block& block, uint64_t bytes) {
    Buffer buffer;
    buffer.device_ = this;
    buffer.address_ = block.address;
    buffer.native_ = block.native;
    buffer.size_ = bytes;
    buffer.mapped_ = block.mapped;
    buffer.allocation_ = block.allocation;
    buffer.backing_ = block.backing;
    return buffer;
}

void Device::release(Buffer& buffer) {
    releaseBlock({buffer.address_, buffer.native_, buffer.mapped_, buffer.allocation_, buffer.backing_}, buffer.size_);
}

Error Device::lostError() const { return {ErrorCode::device_lost, info_.name + ": the device was lost"}; }

Result<const Kernel*> Device::build(const KernelCode& code, const ConstantWords& constants) {
    if (lost_) return lostError();
    auto key = std::pair(&code, constants);
    if (auto found = kernels_.find(key); found != kernels_.end())
        return static_cast<const Kernel*>(found->second.get());
    VKMOE_TRY(pipeline, buildPipeline(code, constants));
    auto kernel = std::make_unique<Kernel>(Kernel{&code, constants, pipeline, this});
    return static_cast<const Kernel*>(kernels_.emplace(key, std::move(kernel)).first->second.get());
}

// What was made on a device that was lost since must not reach the one in its place.
Result<void> Device::checkOurs(const Commands& commands) const {
    for (const auto& operation : commands.operations()) {
        bool ours = (!operation.kernel || operation.kernel->device == this) &&
                    (!operation.from || operation.from->device_ == this) &&
                    (!operation.to || operation.to->device_ == this);
        if (!ours)
            return Error{ErrorCode::device_lost,
                         fmt::format("{}: the work uses {} of another device, or of one that was lost", info_.name,
                                     operation.kernel ? operation.kernel->code->name : "a buffer")};
    }
    return {};
}

Result<uint64_t> Device::submit(const Commands& commands) {
    if (lost_) return lostError();
    VKMOE_CHECK(checkOurs(commands));
    VKMOE_TRY(value, submitWork(commands));
    ++counters_.submits;
    for (const auto& operation : commands.operations()) counters_.dispatches += operation.kernel != nullptr;
    return value;
}

Result<uint64_t> Device::transfer(const Commands& copies, uint64_t after) {
    if (lost_) return lostError();
    assert(transfer_queue_ && std::all_of(copies.operations().begin(), copies.operations().end(),
                                          [](const auto& o) { return o.kind == Commands::Kind::copy; }));
    VKMOE_CHECK(checkOurs(copies));
    VKMOE_TRY(value, submitTransfer(copies, after));
    ++counters_.transfers;
    return value;
}

Result<void> Device::wait(uint64_t value) {
    if (lost_) return lostError();
    ++counters_.waits;
    return waitFor(value);
}

}  // namespace v1
}  // namespace vkmoe
