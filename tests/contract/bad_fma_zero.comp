// flags: --fma
// expect: in main: GLSL.std.450 Fma: an operand is the constant zero
#version 460
#extension GL_GOOGLE_include_directive : require
#include "frame.glsl"

void main() { push.result.at[0] = fma(push.x, push.y, 0.0); }
