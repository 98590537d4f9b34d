// expect: in main: OpFSub: an operand is the constant zero
#version 460
#extension GL_GOOGLE_include_directive : require
#include "frame.glsl"

void main() { push.result.at[0] = uintBitsToFloat(0x80000000u) - push.x; }
