// expect: OpMatrixTimesVector
#version 460
#extension GL_GOOGLE_include_directive : require
#include "frame.glsl"

void main() { push.result.at[0] = (mat2(push.x, push.y, push.y, push.x) * vec2(push.x, push.y)).x; }
