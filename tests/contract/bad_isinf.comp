// expect: OpIsInf
#version 460
#extension GL_GOOGLE_include_directive : require
#include "frame.glsl"

void main() { push.bits.at[0] = isinf(push.x) ? 1u : 0u; }
