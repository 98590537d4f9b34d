// LmParameters: what readers and writers of language models share in memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "host/result.h"

namespace vkmoe::formats {

// `count` zeros, with room for `more`. A size that memory does not hold is an error.
Result<std::vector<std::byte>> zeroBytes(uint64_t count, uint64_t more = 0);
Result<std::vector<float>> zeroFloats(uint64_t count);

}  // namespace vkmoe::formats
