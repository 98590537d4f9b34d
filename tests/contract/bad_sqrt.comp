// expect: in main: GLSL.std.450 Sqrt
#version 460
#extension GL_GOOGLE_include_directive : require
#include "frame.glsl"

void main() { push.result.at[0] = sqrt(push.x); }
