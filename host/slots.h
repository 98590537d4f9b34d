// Slots: places for pages in memory of one kind, in slabs that no page straddles.
#pragma once

#include <vector>

#include "host/device.h"
#include "host/residency.h"

namespace vkmoe {
inline namespace v1 {

inline constexpr PageId kNoPage = UINT32_MAX;

struct Slot {
    const Buffer* slab = nullptr;
    uint64_t offset = 0;      // bytes into the slab
    PageId page = kNoPage;    // what is in it, or on its way into it
    uint64_t busy_until = 0;  // the device may use what is in it until its timeline has passed this

    uint64_t address() const { return slab->address() + offset; }
    // On the host, for Memory::upload.
    std::span<std::byte> bytes(uint64_t count) const { return slab->mapped().subspan(offset, count); }
};

class Slots {
public:
    // Memory for up to `count` slots of `slot_bytes` (a multiple of 256) in slabs of at most 1 GiB; fewer if the device
    // has no more. None at all is no error, a lost device is.
    static Result<Slots> create(Device& device, Memory memory, uint64_t slot_bytes, uint64_t count,
                                const std::string& what);

    uint32_t size() const { return uint32_t(slots_.size()); }
    Slot& operator[](uint32_t i) { return slots_[i]; }
    const Slot& operator[](uint32_t i) const { return slots_[i]; }
    uint64_t bytes() const { return bytes_; }  // taken from the device

    // The system backs what the host reaches of all slots now, before pages come into every one of them.
    void back();

private:
    std::vector<Buffer> slabs_;  // moved as a whole, its elements stay where they are
    std::vector<Slot> slots_;
    uint64_t bytes_ = 0;
};

}  // namespace v1
}  // namespace vkmoe
