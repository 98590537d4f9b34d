#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/kernel.glsl"
#include "shaders/token_softmax.glsl"
// route_topk_backward: from the gradients of gates to those of logits; the choice of experts is constant.
//   in   logits [tokens, experts]; selected, grad_gates [tokens, top_k]; entries of selected that are not below `experts`
//        are skipped, an expert listed twice adds up
//   out  grad_logits [tokens, experts] operands
// With d the gates' gradients (times routed_scale if c_scaled), w the scores as in route_topk (kSoftmaxSelected,
// c_renormalize: divided by their sum + renormalize_epsilon; 0 where that is zero) and i = sum of w*d if divided, else 0:
// v[m] = w[m] * (d[m] - i). An expert's gradient is the sum of its v; kSigmoid: of v * (1 - score); kSoftmax: less
// probability * (sum of all v). c_lanes threads share a token, first over ranks, then over experts. Sums over ranks: R32.
// Scores and gates' gradients may be far apart in size, as routed_scale is: what is loaded and every product takes the
// state rule (products then add up to multiples of 2^-123), and only what is stored the operand rule.
KERNEL(RouteTopkBackward)

shared float rank_value[1024];   // [tokens, top_k]: what is summed over the ranks
shared float rank_weight[1024];  // [tokens, top_k]

bool divides() { return c_score == kSoftmaxSelected || c_renormalize != 0u; }

float sum_ranks(uint first) {
    float total = uintBitsToFloat(0u), s = total;
    for (uint m = 0u; m < p.top_k; ++m) {
        float x = rank_value[first + m];
        s = m % kBlock == 0u ? x : s + x;
        if (m % kBlock == kBlock - 1u || m + 1u == p.top_k) total = m < kBlock ? s : total + s;
    }
    return total;
}

float largest_chosen(Lane lane) {
    float largest = uintBitsToFloat(0u);
    bool any = false;
    for (uint m = 0u; m < p.top_k; ++m) {
        uint e = p.selected.at[lane.token * p.top_k + m];
        if (e >= p.experts) continue;
        float x = p.logits.at[lane.token * p.experts + e];
        largest = any && largest > x ? largest : x;
        any = true;
    }
    return largest;
}

float chosen_score(Lane lane, uint expert, float largest) {
    if (c_score == kSoftmax) return score[lane.local * p.experts + expert];
    float x = p.logits.at[lane.token * p.experts + expert];
    return c_score == kSigmoid ? exact_sigmoid(x) : exact_exp(x - largest);
}

float divisor_of(uint first) {
    if (!divides()) return uintBitsToFloat(0x3f800000u);
    float sum = sum_ranks(first);
    return c_score == kSoftmaxSelected ? sum : sum + p.renormalize_epsilon;
}

// 0 for a skipped rank.
float gate_gradient(uint at) {
    if (p.selected.at[at] >= p.experts) return uintBitsToFloat(0u);
    float d = state_rule(p.grad_gates.at[at]);
    return c_scaled != 0u ? state_rule(d * state_rule(p.routed_scale)) : d;
}

// v, and for a sigmoid its slope's other factor.
float rank_gradient(Lane lane, uint m, float inner) {
    uint at = lane.local * p.top_k + m;
    float d = gate_gradient(lane.token * p.top_k + m);
    if (divides()) d = state_rule(d - inner);
    float v = state_rule(rank_weight[at] * d);
    return c_score == kSigmoid ? state_rule(v * (uintBitsToFloat(0x3f800000u) - score[at])) : v;
}

// Of all ranks that chose the expert; kSoftmax: less its share of `total`.
float expert_gradient(Lane lane, uint expert, float total) {
    float sum = uintBitsToFloat(0u);
    bool any = false;
    for (uint m = 0u; m < p.top_k; ++m) {
        if (p.selected.at[lane.token * p.top_k + m] != expert) continue;
        float v = rank_value[lane.local * p.top_k + m];
        sum = any ? sum + v : v;
        any = true;
    }
    if (c_score != kSoftmax) return sum;
    float share = state_rule(state_rule(score[lane.local * p.experts + expert]) * state_rule(total));
    return any ? sum - share : -share;
}

void main() {
    Lane lane = token_lane(p.tokens);
    uint first = lane.local * p.top_k, ranks = lane.used ? p.top_k : 0u;
    if (c_score == kSoftmax) softmax_token(lane, p.logits, p.experts);
    memoryBarrierShared();
    barrier();
    float largest = uintBitsToFloat(0u);
    if (c_score == kSoftmaxSelected && lane.used) largest = largest_chosen(lane);
    for (uint m = lane.index; m < ranks; m += c_lanes) {
        uint e = p.selected.at[lane.token * p.top_k + m];
        rank_value[first + m] = uintBitsToFloat(0u);
        if (e < p.experts) rank_value[first + m] = chosen_score(lane, e, largest);
        if (c_score == kSigmoid) score[first + m] = rank_value[first + m];  // of ranks here, not of experts
    }
    memoryBarrierShared();
    barrier();
    float divisor = uintBitsToFloat(0x3f800000u), inner = uintBitsToFloat(0u);
    if (lane.used) divisor = divisor_of(first);
    for (uint m = lane.index; m < ranks; m += c_lanes) {
        float w = rank_value[first + m];
        if (divides()) w = magnitude_bits(divisor) == 0u ? uintBitsToFloat(0u) : exact_div(w, divisor);
        rank_weight[first + m] = state_rule(w);
    }
    memoryBarrierShared();
    barrier();
    if (divides()) {
        for (uint m = lane.index; m < ranks; m += c_lanes)
            rank_value[first + m] = state_rule(rank_weight[first + m] * gate_gradient(lane.token * p.top_k + m));
        memoryBarrierShared();
        barrier();
        if (lane.used) inner = sum_ranks(first);
        memoryBarrierShared();
        barrier();
    }
    for (uint m = lane.index; m < ranks; m += c_lanes) rank_value[first + m] = rank_gradient(lane, m, inner);
    memoryBarrierShared();
    barrier();
    if (!lane.used) return;
    float total = inner;
    if (c_score == kSoftmax) total = sum_ranks(first);
    for (uint e = lane.index; e < p.experts; e += c_lanes) {
        uint at = lane.token * p.experts + e;
        p.grad_logits.at[at] = operand_rule(checked(expert_gradient(lane, e, total), p.status, at));
    }
}
