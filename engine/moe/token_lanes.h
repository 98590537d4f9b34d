// How many invocations share a token in the kernels of the router.
#pragma once

#include "shaders/constants.h"

namespace vkmoe {
inline namespace v1 {

// Enough for its experts, a power of two between 8 and 64.
inline uint32_t lanesFor(uint32_t experts) {
    uint32_t lanes = 8;
    while (lanes < experts && lanes < kWorkgroup) lanes *= 2;
    return lanes;
}

}  // namespace v1
}  // namespace vkmoe
