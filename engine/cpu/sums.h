// Sums in order R32 over anything that can be computed term by term.
#pragma once

#include <algorithm>

#include "shaders/constants.h"

namespace vkmoe {
inline namespace v1 {

// Sum of term(0..count-1), count above 0: blocks of 32 in ascending order, then the block totals.
template <class Term>
float sumR32(uint32_t count, const Term& term) {
    float total = 0;
    for (uint32_t first = 0; first < count; first += kBlock) {
        float s = term(first);
        for (uint32_t i = first + 1; i < std::min(first + kBlock, count); ++i) s = s + term(i);
        total = first == 0 ? s : total + s;
    }
    return total;
}

}  // namespace v1
}  // namespace vkmoe
