// Carver: hands out places in one buffer, one after the other.
#pragma once

#include <cstdint>

namespace vkmoe {
inline namespace v1 {

struct Carver {
    static constexpr uint64_t kAlign = 64;

    uint64_t bytes = 0;  // handed out so far

    // The byte offset of `count` new words.
    uint64_t words(uint64_t count) {
        uint64_t at = bytes;
        bytes += (count * 4 + kAlign - 1) / kAlign * kAlign;
        return at;
    }
};

}  // namespace v1
}  // namespace vkmoe
