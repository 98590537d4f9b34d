#include "host/staging.h"

#include <algorithm>

namespace vkmoe {
inline namespace v1 {

Result<Staging> Staging::create(Device& device, uint64_t slot_bytes) {
    Staging staging(device);
    for (Slot& slot : staging.slots_) {
        VKMOE_TRY(upload, device.allocate(slot_bytes, Memory::upload, "staging"));
        VKMOE_TRY(target, device.allocate(slot_bytes, Memory::device, "staging"));
        slot.upload = std::move(upload);
        slot.device = std::move(target);
    }
    return staging;
}

Result<Staging::Slot*> Staging::next() {
    Slot& slot = slots_[turn_++ % slots_.size()];
    if (slot.busy_until != 0) VKMOE_CHECK(device_->wait(slot.busy_until));
    return &slot;
}

Result<void> Staging::submit(Slot& slot, const Commands& commands) {
    VKMOE_TRY(value, device_->submit(commands));
    slot.busy_until = value;
    return {};
}

Result<void> Staging::drain() {
    uint64_t last = std::max(slots_[0].busy_until, slots_[1].busy_until);
    return last != 0 ? device_->wait(last) : Result<void>();
}

}  // namespace v1
}  // namespace vkmoe
