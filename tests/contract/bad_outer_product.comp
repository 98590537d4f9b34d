// expect: OpOuterProduct
#version 460
#extension GL_GOOGLE_include_directive : require
#include "frame.glsl"

void main() { push.result.at[0] = outerProduct(vec2(push.x), vec2(push.y))[0].x; }
