// expect: in main: OpDot
#version 460
#extension GL_GOOGLE_include_directive : require
#include "frame.glsl"

void main() { push.result.at[0] = dot(vec4(push.x), vec4(push.y)); }
