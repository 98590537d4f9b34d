// expect: in exact_divide: OpFDiv
#version 460
#extension GL_GOOGLE_include_directive : require
#include "frame.glsl"

float exact_divide(float a, float b) { return a / b; }

void main() { push.result.at[0] = exact_divide(push.x, push.y); }
