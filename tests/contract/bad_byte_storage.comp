// expect: the capability StorageBuffer8BitAccess
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_shader_8bit_storage : require
#include "frame.glsl"

#extension GL_EXT_buffer_reference : require
layout(buffer_reference, scalar, buffer_reference_align = 1) buffer Bytes { uint8_t at[]; };

void main() { push.bits.at[0] = uint(Bytes(push.bits).at[0]); }
