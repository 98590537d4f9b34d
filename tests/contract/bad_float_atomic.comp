// expect: OpAtomicFAddEXT
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_shader_atomic_float : require
#include "frame.glsl"

void main() { atomicAdd(push.result.at[0], push.x); }
