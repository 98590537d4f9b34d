// expect: in main: OpFAdd: an operand is the constant zero
#version 460
#extension GL_GOOGLE_include_directive : require
#include "frame.glsl"

layout(constant_id = 0) const float kBias = 0.0;

void main() { push.result.at[0] = push.x + kBias; }
