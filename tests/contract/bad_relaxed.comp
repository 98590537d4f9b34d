// expect: a decoration that permits less precision
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_spirv_intrinsics : require
#include "frame.glsl"

void main() {
    spirv_decorate(0) float relaxed = push.x;
    push.result.at[0] = relaxed * push.y;
}
