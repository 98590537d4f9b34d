// expect: in main: OpFAdd: an operand is the constant zero
#version 460
#extension GL_GOOGLE_include_directive : require
#include "frame.glsl"

void main() { push.result.at[0] = push.x + 0.0; }
