// Kernels: the table of everything a device can run, one entry per line of kernels.inc.
//
//     device.build(kernels().route_topk, words({.score = kSoftmax, .lanes = 8}))
#pragma once

#include <array>
#include <cstring>
#include <vector>

#include "host/kernel.h"
#include "shaders/params.h"

namespace vkmoe {
inline namespace v1 {

struct Kernels {
#define KERNEL(name, Params, fma, twin) KernelCode name;
#include "engine/kernels.inc"
#undef KERNEL
    std::vector<const KernelCode*> all() const;
};

const Kernels& kernels();

// Named constants as the words a device takes.
inline ConstantWords words(const Constants& constants) {
    static_assert(sizeof(Constants) <= sizeof(ConstantWords));
    ConstantWords out{};
    std::memcpy(out.data(), &constants, sizeof constants);
    return out;
}

inline Constants named(const ConstantWords& words) {
    Constants out;
    std::memcpy(static_cast<void*>(&out), words.data(), sizeof out);
    return out;
}

}  // namespace v1
}  // namespace vkmoe
