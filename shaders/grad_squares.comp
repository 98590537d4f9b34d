#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/kernel.glsl"
// grad_squares: partial sums of the squared norm of gradients, which the host adds in double.
//   in   grads [count], count at most 2^31
//   out  squares [ceil(count/65536)][64]: squares[g][lane] = sum over k < 1024 of (grads[65536*g + 64*k + lane] * scale)^2,
//        order R32 over k; +0 where there is no such element
// One workgroup for 65,536 gradients, one thread a partial sum. A scaled gradient is rounded, then follows the operand
// rule. An element is counted if its square is not finite, or not below 2^63; a sum of squares that may be stored is
// below 2^73.
KERNEL(GradSquares)

float square(uint at) {
    float g = operand_rule(p.grads.at[at] * p.scale);
    return checked(g * g, p.status, at);
}

// The block of 32 terms that starts at element `at`.
float block_squares(uint at) {
    float s = square(at);
    for (uint k = 1u; k < kBlock && at + 64u * k < p.count; ++k) s = s + square(at + 64u * k);
    return s;
}

void main() {
    uint first = group_index() * 65536u + lane_index();
    if (group_index() >= (p.count + 65535u) / 65536u) return;
    float total = uintBitsToFloat(0u);
    if (first < p.count) total = block_squares(first);
    for (uint k = kBlock; k < 1024u && first + 64u * k < p.count; k += kBlock)
        total = total + block_squares(first + 64u * k);
    p.squares.at[thread_index()] = total;
}
