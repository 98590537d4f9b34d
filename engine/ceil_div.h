// Division that rounds up: workgroups, tiles, blocks and panels of a count.
#pragma once

#include <cstdint>

namespace vkmoe {
inline namespace v1 {

inline uint32_t ceilDiv(uint32_t a, uint32_t b) { return (a + b - 1) / b; }

}  // namespace v1
}  // namespace vkmoe
