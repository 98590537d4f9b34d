// expect: in not_exact_div: OpFDiv
#version 460
#extension GL_GOOGLE_include_directive : require
#include "frame.glsl"

float not_exact_div(float a, float b) { return a / b; }

void main() { push.result.at[0] = not_exact_div(push.x, push.y); }
