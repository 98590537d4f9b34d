// What grad_squares makes of gradients: how many partial sums, and the sentence where some cannot be squared.
#pragma once

#include <fmt/format.h>

#include <string>

#include "shaders/constants.h"

namespace vkmoe {
inline namespace v1 {

constexpr uint64_t kSquaresGroup = 65536;  // gradients of one workgroup

inline uint64_t squaresPartials(uint64_t words) { return (words + kSquaresGroup - 1) / kSquaresGroup * kWorkgroup; }

struct SquaresFault {
    uint64_t count = 0;
    std::string first;

    // The status words of one dispatch; dispatches come in the order of their gradients.
    template <class Place>
    void add(const uint32_t* status, const Place& place) {
        if (status[0] != 0 && count == 0) first = place(~status[1]);
        count += status[0];
    }
    std::string text(const std::string& slab) const {
        return fmt::format("{}: {} gradients are not finite or their squares not below 2^63, the first in {}", slab,
                           count, first);
    }
};

}  // namespace v1
}  // namespace vkmoe
