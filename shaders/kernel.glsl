// What every kernel includes first: extensions, parameters, constants, exact math, the invocation's index, the status word.
#extension GL_EXT_buffer_reference : require
#extension GL_EXT_buffer_reference_uvec2 : require
#extension GL_EXT_scalar_block_layout : require
#extension GL_EXT_control_flow_attributes : require
#define uint32_t uint
#include "shaders/params.h"
#include "shaders/exact_math.h"

#define VKMOE_DECLARE(id, name) layout(constant_id = id) const uint c_##name = 0u;
VKMOE_CONSTANTS(VKMOE_DECLARE)

// Declares the push constants: `p` is the kernel's parameter struct.
#define KERNEL(Params)                                        \
    layout(local_size_x = 64, local_size_y = 1, local_size_z = 1) in; \
    layout(push_constant, scalar) uniform Push { Params p; };

// Groups beyond 65,535 are folded into y by the host: indices are always linear.
uint group_index() { return gl_WorkGroupID.y * gl_NumWorkGroups.x + gl_WorkGroupID.x; }
uint lane_index() { return gl_LocalInvocationIndex; }
uint thread_index() { return group_index() * kWorkgroup + gl_LocalInvocationIndex; }

// Counts a value that may not be stored, and keeps the smallest index.
void flag(U32 status, uint index) {
    atomicAdd(status.at[0], 1u);
    atomicMax(status.at[1], ~index);
}

// Whether the table has an address for the page that is not null (see Pages). It is asked before any barrier.
bool is_here(Pages pages, uint page) { return uvec2(pages.at[page]) != uvec2(0u); }

float checked(float x, U32 status, uint index) {
    if (out_of_range(x)) flag(status, index);
    return x;
}

// Element i of an array in a storage format, as f32.
float decode_element(U32 source, uint i, uint format) {
    if (format == kF32) return uintBitsToFloat(source.at[i]);
    uint word = source.at[i >> 1];
    uint half_word = (i & 1u) == 0u ? word & 0xffffu : word >> 16;
    return format == kF16 ? f16_decode(half_word) : bf16_decode(half_word);
}
