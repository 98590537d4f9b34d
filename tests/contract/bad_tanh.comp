// expect: GLSL.std.450 Tanh
#version 460
#extension GL_GOOGLE_include_directive : require
#include "frame.glsl"

void main() { push.result.at[0] = tanh(push.x); }
