// expect: GLSL.std.450 FMax
#version 460
#extension GL_GOOGLE_include_directive : require
#include "frame.glsl"

void main() { push.result.at[0] = max(push.x, push.y); }
