#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/kernel.glsl"
// slot_stats: what introspection needs of each slot.
//   in   hidden [slots, hidden_dim]; y [slots, model_dim]
//   out  energy [slots] sum of y^2 (state rule, order R32); quiet [slots] hidden values with |h| < 0.01
// One thread a slot.
KERNEL(SlotStats)

float square(uint at) {
    float y = operand_rule(p.y.at[at]);
    return y * y;
}

float block_energy(uint row, uint d0, uint d1) {
    float s = square(row + d0);
    for (uint d = d0 + 1u; d < d1; ++d) s = s + square(row + d);
    return s;
}

void main() {
    uint slot = thread_index();
    if (slot >= p.slots) return;
    uint row = slot * p.model_dim, quiet = 0u;
    float total = block_energy(row, 0u, min(kBlock, p.model_dim));
    for (uint d0 = kBlock; d0 < p.model_dim; d0 += kBlock)
        total = total + block_energy(row, d0, min(d0 + kBlock, p.model_dim));
    for (uint j = 0u; j < p.hidden_dim; ++j)
        quiet += magnitude_bits(p.hidden.at[slot * p.hidden_dim + j]) < 0x3c23d70au ? 1u : 0u;  // 0.01
    p.energy.at[slot] = state_rule(total);
    p.quiet.at[slot] = quiet;
}
