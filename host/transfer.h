// Transfer: arrays from the host to a device and back, for programs that dispatch kernels themselves.
//
//     VKMOE_TRY(logits, upload(device, values, "logits"));  // values: a vector, an array or a span
//     ... record dispatches into commands ...
//     VKMOE_CHECK(submitAndWait(device, commands));
//     VKMOE_TRY(gates, download<float>(device, gates_buffer, count));
//
// Each call waits until the device has done it. To overlap work, record copies into Commands, or use Staging.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "host/device.h"

namespace vkmoe {
inline namespace v1 {

constexpr uint64_t kLeastStaging = uint64_t{64} << 10;

// How much host-visible memory serves to pass so many bytes through, a piece at a time: less where little is left, but
// at least kLeastStaging.
uint64_t stagingBytes(Device& device, uint64_t bytes);

// Starts the work and waits until it is finished.
Result<void> submitAndWait(Device& device, const Commands& commands);

// New memory for kernels (Memory::device) that starts with `bytes`; `what` names it in errors.
Result<Buffer> uploadBytes(Device& device, std::span<const std::byte> bytes, const std::string& what);

// Reads from byte `offset` of `from`, which is Memory::device, as many bytes as `into` has.
Result<void> downloadBytes(Device& device, const Buffer& from, uint64_t offset, std::span<std::byte> into);

// The same for a contiguous range of plain values.
template <class Range>
Result<Buffer> upload(Device& device, const Range& values, const std::string& what) {
    return uploadBytes(device, std::as_bytes(std::span(values)), what);
}

// `count` values from byte `offset` on.
template <class Value>
Result<std::vector<Value>> download(Device& device, const Buffer& from, size_t count, uint64_t offset = 0) {
    std::vector<Value> values(count);
    VKMOE_CHECK(downloadBytes(device, from, offset, std::as_writable_bytes(std::span(values))));
    return values;
}

}  // namespace v1
}  // namespace vkmoe
