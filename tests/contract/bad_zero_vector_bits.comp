// expect: in main: OpFAdd: an operand is the constant zero
#version 460
#extension GL_GOOGLE_include_directive : require
#include "frame.glsl"

void main() { push.result.at[0] = (vec2(push.x, push.y) + uintBitsToFloat(uvec2(0x3f800000u, 0u))).x; }
