// expect: in main: the instruction with opcode 161
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_spirv_intrinsics : require
#include "frame.glsl"

spirv_instruction(id = 161) bool lessOrGreater(float a, float b);

void main() { push.bits.at[0] = lessOrGreater(push.x, push.y) ? 1u : 0u; }
