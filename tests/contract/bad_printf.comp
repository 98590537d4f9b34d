// expect: OpExtInstImport: NonSemantic.DebugPrintf
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_debug_printf : require
#include "frame.glsl"

void main() { debugPrintfEXT("%f", push.x); }
