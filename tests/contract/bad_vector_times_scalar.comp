// expect: OpVectorTimesScalar: write v * vec4
#version 460
#extension GL_GOOGLE_include_directive : require
#include "frame.glsl"

void main() { push.result.at[0] = (vec4(push.x, push.y, push.x, push.y) * push.y).x; }
