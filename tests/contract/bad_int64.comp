// expect: OpTypeInt of 64 bits
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_shader_explicit_arithmetic_types_int64 : require
#include "frame.glsl"

void main() { push.bits.at[0] = uint((uint64_t(push.n) * push.n) >> 32); }
