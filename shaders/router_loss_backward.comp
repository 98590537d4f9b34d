#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/kernel.glsl"
#include "shaders/token_softmax.glsl"
// router_loss_backward: adds the gradients of the auxiliary losses to those of the logits.
//   in      logits [tokens, experts]; counts [experts], sums below 2^24
//   in/out  grad_logits [tokens, experts] operands
// With p the softmax over all experts and f = counts / assignments, which counts as constant:
//   balance  balance_scale * p[e] * (f[e] - sum of f*p)
//   z        z_scale * (log of the sum of exp(logits)) * p[e]
// are added in this order; a scale of 0 adds nothing. c_lanes threads share a token. Sums over experts: order R32.
// Sources: Shazeer et al. 2017, Fedus et al. 2021 (balance); Zoph et al. 2022 (z).
KERNEL(RouterLossBackward)

shared float fraction[1024];  // [experts]

bool has_balance() { return magnitude_bits(p.balance_scale) != 0u; }
bool has_z() { return magnitude_bits(p.z_scale) != 0u; }

float expected_term(uint base, uint e) { return fraction[e] * operand_rule(score[base + e]); }

float block_expected(uint base, uint block) {
    float s = expected_term(base, block * kBlock);
    for (uint e = block * kBlock + 1u; e < min((block + 1u) * kBlock, p.experts); ++e) s = s + expected_term(base, e);
    return s;
}

void main() {
    Lane lane = token_lane(p.tokens);
    uint base = lane.local * p.experts, row = lane.token * p.experts, blocks = (p.experts + kBlock - 1u) / kBlock;
    for (uint e = lane_index(); e < p.experts; e += kWorkgroup)
        fraction[e] = exact_div(float(p.counts.at[e]), float(max(p.assignments, 1u)));
    Softmax softmax = softmax_token(lane, p.logits, p.experts);
    memoryBarrierShared();
    barrier();
    for (uint b = lane.index; lane.used && b < blocks; b += c_lanes)
        lane_value[lane.local * blocks + b] = block_expected(base, b);
    memoryBarrierShared();
    barrier();
    if (!lane.used) return;
    float expected = sum_blocks(lane, p.experts);
    float z = operand_rule(softmax.largest + exact_log(softmax.sum));
    z = operand_rule(operand_rule(p.z_scale) * z);
    for (uint e = lane.index; e < p.experts; e += c_lanes) {
        float probability = operand_rule(score[base + e]), grad = p.grad_logits.at[row + e];
        float balance = operand_rule(operand_rule(p.balance_scale) * probability);
        if (has_balance()) grad = grad + balance * operand_rule(fraction[e] - expected);
        if (has_z()) grad = grad + z * probability;
        p.grad_logits.at[row + e] = operand_rule(checked(grad, p.status, row + e));
    }
}
