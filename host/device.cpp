#include "host/device.h"

#include <fmt/format.h>

#include <algorithm>

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

Buffer& Buffer::operator=(Buffer&& other) noexcept {
    if (this == &other) return *this;
    reset();
    device_ = std::exchange(other.device_, nullptr);
    address_ = std::exchange(other.address_, 0);
    size_ = std::exchange(other.size_, 0);
    native_ = std::exchange(other.native_, 0);
    mapped_ = std::exchange(other.mapped_, nullptr);
    allocation_ = std::exchange(other.allocation_, nullptr);
    return *this;
}

void Buffer::reset() {
    if (device_) device_->release(*this);
    device_ = nullptr;
    address_ = size_ = native_ = 0;
    mapped_ = allocation_ = nullptr;
}

Result<Buffer> Device::allocate(uint64_t bytes, Memory memory, const std::string& what) {
    if (bytes < uint64_t{1} << 62) bytes = std::max<uint64_t>((bytes + 255) / 256 * 256, 256);
    if (bytes > info_.limits.max_allocation)
        return Error{ErrorCode::out_of_memory,
                     fmt::format("{}: {} bytes asked, one allocation of {} holds at most {} bytes", what, bytes,
                                 info_.name, info_.limits.max_allocation)};
    VKMOE_CHECK(ledger_.take(bytes, what));
    auto block = allocateBlock(bytes, memory, what);
    if (!block) {
        ledger_.give(bytes);
        return std::move(block).error();
    }
    Buffer buffer;
    buffer.device_ = this;
    buffer.address_ = block->address;
    buffer.native_ = block->native;
    buffer.size_ = bytes;
    buffer.mapped_ = block->mapped;
    buffer.allocation_ = block->allocation;
    return buffer;
}

void Device::release(Buffer& buffer) {
    releaseBlock({buffer.address_, buffer.native_, buffer.mapped_, buffer.allocation_}, buffer.size_);
}

Result<const Kernel*> Device::build(const KernelCode& code, const ConstantWords& constants) {
    auto key = std::pair(&code, constants);
    if (auto found = kernels_.find(key); found != kernels_.end())
        return static_cast<const Kernel*>(found->second.get());
    VKMOE_TRY(pipeline, buildPipeline(code, constants));
    auto kernel = std::make_unique<Kernel>(Kernel{&code, constants, pipeline});
    return static_cast<const Kernel*>(kernels_.emplace(key, std::move(kernel)).first->second.get());
}

Result<uint64_t> Device::submit(const Commands& commands) {
    VKMOE_TRY(value, submitWork(commands));
    ++counters_.submits;
    for (const auto& operation : commands.operations()) counters_.dispatches += operation.kernel != nullptr;
    return value;
}

Result<void> Device::wait(uint64_t value) {
    ++counters_.waits;
    return waitFor(value);
}

}  // namespace v1
}  // namespace vkmoe
