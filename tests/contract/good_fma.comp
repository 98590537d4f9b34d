// flags: --fma
#version 460
#extension GL_GOOGLE_include_directive : require
#include "frame.glsl"

shared vec4 tile[64];

vec4 step_of(vec4 a, vec4 b, vec4 c) { return fma(a, b, c); }

void main() {
    tile[gl_LocalInvocationID.x] = step_of(vec4(push.x), vec4(push.y), vec4(push.x));
    push.result.at[0] = fma(push.x, push.y, 1.0) + tile[0].x;
}
