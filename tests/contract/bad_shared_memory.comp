// expect: shared variables of 16388 bytes
#version 460
#extension GL_GOOGLE_include_directive : require
#include "frame.glsl"

shared uint a[4096];
shared uint b;

void main() {
    a[gl_LocalInvocationIndex] = 1u;
    b = a[0];
    push.result.at[0] = float(b);
}
