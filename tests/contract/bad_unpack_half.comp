// expect: GLSL.std.450 UnpackHalf2x16
#version 460
#extension GL_GOOGLE_include_directive : require
#include "frame.glsl"

void main() { push.result.at[0] = unpackHalf2x16(push.n).x; }
