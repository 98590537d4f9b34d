// expect: shared variables of 20480 bytes
// flags: --int64
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_shader_explicit_arithmetic_types_int64 : require
#include "frame.glsl"

shared uint64_t a[2560];

void main() {
    a[gl_LocalInvocationIndex] = packUint2x32(uvec2(push.n));
    push.bits.at[0] = unpackUint2x32(a[0]).x;
}
