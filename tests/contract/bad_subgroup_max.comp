// expect: OpGroupNonUniformFMax
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_shader_subgroup_arithmetic : require
#include "frame.glsl"

void main() { push.result.at[0] = subgroupMax(push.x); }
