#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/kernel.glsl"
// slot_stats: what introspection needs of each slot.
//   in   hidden [slots, hidden_dim]; y [slots, model_dim]
//   out  energy [slots] sum of (y / 2^(scale-127))^2, order R32; scale [slots] biased exponent of the largest |y|;
//        quiet [slots] hidden values with |h| < 0.01
// One thread a slot. Scaling by a power of two is exact, and no output that may be stored overflows its square.
KERNEL(SlotStats)

float square(uint at, float scale) {
    float y = operand_rule(p.y.at[at] * scale);
    return y * y;
}

float block_energy(uint row, uint d0, uint d1, float scale) {
    float s = square(row + d0, scale);
    for (uint d = d0 + 1u; d < d1; ++d) s = s + square(row + d, scale);
    return s;
}

// The biased exponent of the largest |y| of a row.
uint largest_exponent(uint row) {
    uint largest = 0u;
    for (uint d = 0u; d < p.model_dim; ++d) largest = max(largest, magnitude_bits(p.y.at[row + d]));
    return largest >> 23;
}

bool is_quiet(uint row, uint j) {
    return j < p.hidden_dim && magnitude_bits(p.hidden.at[row + min(j, p.hidden_dim - 1u)]) < 0x3c23d70au;  // 0.01
}

void main() {
    uint slot = thread_index();
    if (slot >= p.slots) return;
    uint row = slot * p.model_dim, quiet = 0u;
    uint exponent = largest_exponent(row);
    float scale = uintBitsToFloat((254u - exponent) << 23);
    float total = block_energy(row, 0u, min(kBlock, p.model_dim), scale);
    for (uint d0 = kBlock; d0 < p.model_dim; d0 += kBlock)
        total = total + block_energy(row, d0, min(d0 + kBlock, p.model_dim), scale);
    for (uint j = 0u; j < p.hidden_dim; j += 4u)
        [[unroll]] for (uint i = 0u; i < 4u; ++i) quiet += is_quiet(slot * p.hidden_dim, j + i) ? 1u : 0u;
    p.energy.at[slot] = state_rule(total);
    p.scale.at[slot] = exponent;
    p.quiet.at[slot] = quiet;
}
