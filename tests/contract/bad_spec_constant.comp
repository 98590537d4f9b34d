// expect: in main: OpFMul: every operand is a constant
#version 460
#extension GL_GOOGLE_include_directive : require
#include "frame.glsl"

layout(constant_id = 0) const float kScale = 1.5;

void main() { push.result.at[0] = kScale * 3.0; }
