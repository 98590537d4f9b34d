// The CPU twins: for each kernel a function with the shader's name, and for the hot ones a SIMD form with the same
// bits.
#pragma once

#include "host/kernel.h"
#include "shaders/params.h"

namespace vkmoe {
inline namespace v1 {

namespace cpu {
#define KERNEL(name, Params, fma, twin) void name(const Params& p, const Constants& c, Groups groups);
#include "engine/kernels.inc"
#undef KERNEL
}  // namespace cpu

namespace simd {
#define KERNEL(name, Params, fma, twin) void name(const Params& p, const Constants& c, Groups groups);
#include "engine/kernels.inc"
#undef KERNEL
}  // namespace simd

}  // namespace v1
}  // namespace vkmoe
