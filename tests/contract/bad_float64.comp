// expect: OpTypeFloat of 64 bits
#version 460
#extension GL_GOOGLE_include_directive : require
#include "frame.glsl"

void main() { push.result.at[0] = float(double(push.x)); }
