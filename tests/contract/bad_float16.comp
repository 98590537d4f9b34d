// expect: OpTypeFloat of 16 bits
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
#include "frame.glsl"

void main() { push.result.at[0] = float(float16_t(push.x)); }
