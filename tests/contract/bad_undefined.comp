// expect: in main: OpUndef
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_spirv_intrinsics : require
#include "frame.glsl"

spirv_instruction(id = 1) float undefined();

void main() { push.result.at[0] = undefined(); }
