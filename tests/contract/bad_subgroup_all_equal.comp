// expect: OpGroupNonUniformAllEqual on a float
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_shader_subgroup_vote : require
#include "frame.glsl"

void main() { push.bits.at[0] = subgroupAllEqual(push.x) ? 1u : 0u; }
