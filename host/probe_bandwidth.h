// How fast a device's kernels read its own memory and the host's, and whether copies are better made beside them: what
// a pager decides by, measured in a few dozen milliseconds.
#pragma once

#include "host/device.h"

namespace vkmoe {
inline namespace v1 {

// Bytes a second.
struct MemorySpeeds {
    double device_read = 0;  // kernels from Memory::device
    double host_read = 0;    // kernels from Memory::host
    double copy = 0;         // from Memory::host to Memory::device
    // Copies on the transfer queue and kernels are done sooner than copies and kernels on one queue.
    bool transfer_queue = false;
};

// `peak_read` is the kernel of that name. Takes memory of the device for as long as it runs: an eighth of what is free,
// at most 32 MiB (8 on processors), twice. What is slow is measured on fewer bytes. Errors are those of the device.
Result<MemorySpeeds> probeBandwidth(Device& device, const KernelCode& peak_read);

}  // namespace v1
}  // namespace vkmoe
