// expect: OpDPdx
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_NV_compute_shader_derivatives : require
#include "frame.glsl"

layout(derivative_group_linearNV) in;

void main() { push.result.at[0] = dFdx(push.x); }
