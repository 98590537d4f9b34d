// expect: GLSL.std.450 FClamp
#version 460
#extension GL_GOOGLE_include_directive : require
#include "frame.glsl"

void main() { push.result.at[0] = clamp(push.x, push.y, 1.0); }
