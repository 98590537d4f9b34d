// Typed device addresses, one text for GLSL and C++.
//
// In GLSL an address is a buffer reference, in C++ a host pointer of the same eight bytes: a kernel and its CPU twin
// receive the very same parameter struct. Addresses are never integers in GLSL (some devices have no 64-bit integers).
#ifndef VKMOE_POINTERS_H
#define VKMOE_POINTERS_H

#ifdef __cplusplus
#include <cstdint>
#define GPU_POINTER(Name, Element, Align) \
    struct Name {                         \
        Element* at;                      \
    };
namespace vkmoe {
inline namespace v1 {
#else
#define GPU_POINTER(Name, Element, Align) \
    layout(buffer_reference, scalar, buffer_reference_align = Align) buffer Name { Element at[]; };
#endif

GPU_POINTER(F32, float, 4)
GPU_POINTER(U32, uint32_t,
            8)  // at multiples of 8: glslang takes this for the alignment of an address in a page table, too

// A page table: one address per page. Kernels that find pages by expert (not with constants.dense) leave the rows, or
// gradients, of an expert alone whose address is null: nothing is read of them, written or counted.
GPU_POINTER(Pages, U32, 8)

#ifdef __cplusplus
}  // inline namespace v1
}  // namespace vkmoe
#endif
#endif
