// Staging: host memory on its way to a device, in two slots that take turns, so that reading a file and copying
// overlap.
//
//     auto slot = staging.next();            // waits until the device is done with the slot's last use
//     read(file, slot->upload.mapped());
//     commands.copy(slot->upload, 0, slot->device, 0, used); ... kernels that unpack slot->device ...
//     staging.submit(*slot, commands);
#pragma once

#include <array>

#include "host/device.h"

namespace vkmoe {
inline namespace v1 {

class Staging {
public:
    struct Slot {
        Buffer upload, device;  // slot_bytes each
        uint64_t busy_until = 0;
    };

    static Result<Staging> create(Device& device, uint64_t slot_bytes);

    Result<Slot*> next();
    Result<void> submit(Slot& slot, const Commands& commands);
    Result<void> drain();  // waits for all that was submitted

private:
    explicit Staging(Device& device) : device_(&device) {}
    Device* device_;
    std::array<Slot, 2> slots_;
    size_t turn_ = 0;
};

}  // namespace v1
}  // namespace vkmoe
