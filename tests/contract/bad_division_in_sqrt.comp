// expect: in exact_sqrt: OpFDiv
#version 460
#extension GL_GOOGLE_include_directive : require
#include "frame.glsl"

float exact_sqrt(float a) { return a / push.y; }

void main() { push.result.at[0] = exact_sqrt(push.x); }
