#include "host/slots.h"

#include <algorithm>

#include "host/host_memory.h"

namespace vkmoe {
inline namespace v1 {

namespace {
constexpr uint64_t kSlabBytes = uint64_t{1} << 30;
}

Result<Slots> Slots::create(Device& device, Memory memory, uint64_t slot_bytes, uint64_t count,
                            const std::string& what) {
    Slots slots;
    uint64_t most = std::min(device.info().limits.max_allocation, kSlabBytes) / slot_bytes;
    // Pages of over a slab's size get a slab each, where the device allows it at all.
    uint64_t per_slab = std::max<uint64_t>(most, device.info().limits.max_allocation >= slot_bytes ? 1 : 0);
    while (per_slab > 0 && slots.slots_.size() < count) {
        uint64_t some = std::min(per_slab, count - slots.slots_.size());
        auto slab = device.allocate(some * slot_bytes, memory, what);
        if (!slab) {
            if (slab.error().code != ErrorCode::out_of_memory) return std::move(slab).error();
            per_slab = some / 2;
            continue;
        }
        slots.bytes_ += slab->size();
        slots.slabs_.push_back(std::move(slab).value());
        slots.slots_.resize(slots.slots_.size() + some);
    }
    size_t next = 0;
    for (const Buffer& slab : slots.slabs_)
        for (uint64_t offset = 0; offset + slot_bytes <= slab.size(); offset += slot_bytes)
            slots.slots_[next++] = {&slab, offset};
    return slots;
}

void Slots::back() {
    for (const Buffer& slab : slabs_) backHostMemory(slab.mapped());
}

}  // namespace v1
}  // namespace vkmoe
