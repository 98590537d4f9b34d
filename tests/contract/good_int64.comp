// flags: --int64
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_shader_explicit_arithmetic_types_int64 : require
#include "frame.glsl"

void main() { push.bits.at[0] = unpackUint2x32(packUint2x32(uvec2(push.n, 1u))).x; }
