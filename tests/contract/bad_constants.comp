// expect: in main: OpFMul: every operand is a constant
#version 460
#extension GL_GOOGLE_include_directive : require
#include "frame.glsl"

void main() { push.result.at[0] = uintBitsToFloat(0x3f800001u) * uintBitsToFloat(0x3f800003u); }
