// What is exact without rounding: integers, bits, comparisons, conversions, atomics, subgroup moves, specialization.
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_shader_subgroup_arithmetic : require
#extension GL_KHR_shader_subgroup_ballot : require
#extension GL_KHR_shader_subgroup_shuffle : require
#extension GL_KHR_shader_subgroup_vote : require
#include "frame.glsl"

layout(local_size_x_id = 3) in;
layout(constant_id = 0) const uint kTop = 2;
layout(constant_id = 1) const bool kSorted = true;
const uint kWords = (kTop + 31) / 32;

shared uint counts[64];

float select(float a, float b) { return abs(a) > b || !(a <= b) ? a : -b; }

void main() {
    const uint lane = gl_LocalInvocationID.x;
    counts[lane] = kSorted ? kWords : findMSB(push.n) + bitCount(push.n);
    barrier();

    uint carry, low, high;
    low = uaddCarry(push.n, counts[lane], carry);
    umulExtended(low, push.n, high, low);
    atomicAdd(push.bits.at[0], high);
    atomicMax(push.bits.at[1], low / max(carry, 1u) + bitfieldExtract(low, 3, 5));
    const uint above = subgroupBallotBitCount(subgroupBallot(low > 3u));
    if (subgroupAny(push.n > lane)) push.bits.at[2] = subgroupAdd(high) + above;

    const float other = subgroupShuffle(select(push.x, push.y), lane ^ 1u);
    push.bits.at[3] = uint(other) + floatBitsToUint(float(int(push.n))) % 7u;
    push.result.at[lane] = uintBitsToFloat(0u);
    push.result.at[lane + 1u] = other != 0.0 ? vec4(other, 0.0, 0.0, 1.0)[push.n & 3u] : 0.0;
}
