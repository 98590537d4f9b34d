// expect: GLSL.std.450 PackHalf2x16
#version 460
#extension GL_GOOGLE_include_directive : require
#include "frame.glsl"

void main() { push.bits.at[0] = packHalf2x16(vec2(push.x, push.y)); }
