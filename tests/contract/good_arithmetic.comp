// Every place in which glslang leaves float arithmetic bare: callees, out parameters, stores to shared memory.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "frame.glsl"

shared float tile[64];
shared vec4 wide[16];

float square(float a) { return a * a; }
void difference(float a, float b, out float result) { result = a - b; }
void accumulate(inout vec4 sum, vec4 a, vec4 b) { sum = sum + a * b; }
float exact_div(float a, float b) { return a / b; }
float exact_sqrt(float a) { return sqrt(a); }
vec2 exact_div(vec2 a, vec2 b) { return a / b; }

void main() {
    const uint lane = gl_LocalInvocationID.x;
    float delta;
    difference(push.x, push.y, delta);
    tile[lane] = square(delta) + push.y;
    wide[lane & 15u] = vec4(push.x) - vec4(push.y, delta, 1.0, 2.0) * vec4(delta);
    barrier();

    vec4 sum = wide[0];
    for (uint i = 1u; i < 16u; ++i) accumulate(sum, wide[i], wide[i] + push.x);
    precise float careful = tile[lane ^ 1u] * uintBitsToFloat(0x3f317218u);
    careful += -sum.x;
    const vec2 quotients = exact_div(sum.yz, vec2(careful, push.x));
    push.result.at[lane] = exact_div(exact_sqrt(abs(careful)), quotients.x - quotients.y);
}
