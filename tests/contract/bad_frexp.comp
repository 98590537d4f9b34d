// expect: GLSL.std.450 Frexp
#version 460
#extension GL_GOOGLE_include_directive : require
#include "frame.glsl"

void main() {
    int exponent;
    push.result.at[0] = frexp(push.x, exponent);
}
