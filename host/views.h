// Typed views of memory: of an address that kernels use, and of a buffer's bytes on the host.
#pragma once

#include <cstdint>
#include <span>

#include "host/buffer.h"

namespace vkmoe {
inline namespace v1 {

// An address as a typed pointer of params.h: Buffer::at for who has no buffer.
template <class Pointer>
Pointer pointerTo(uint64_t address) {
    Pointer pointer;
    pointer.at = reinterpret_cast<decltype(pointer.at)>(static_cast<uintptr_t>(address));
    return pointer;
}

// `count` values from byte `offset` of a buffer that the host reads.
template <class T>
std::span<const T> view(const Buffer& buffer, uint64_t offset, size_t count) {
    return {reinterpret_cast<const T*>(buffer.mapped().data() + offset), count};
}

}  // namespace v1
}  // namespace vkmoe
