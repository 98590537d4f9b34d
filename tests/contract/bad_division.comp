// expect: in main: OpFDiv
#version 460
#extension GL_GOOGLE_include_directive : require
#include "frame.glsl"

void main() { push.result.at[0] = push.x / push.y; }
