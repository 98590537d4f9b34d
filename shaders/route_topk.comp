#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/kernel.glsl"
// route_topk: chooses top_k experts for each token and gives them gates.
//   in   logits [tokens, experts]; selection_bias [experts] if c_selection_bias
//   out  selected [tokens, top_k] best first, ties to the lower index; gates [tokens, top_k];
//        probabilities [tokens, experts], softmax over all experts, if c_probabilities
// c_score kSoftmaxSelected: gates = softmax of the chosen logits. kSoftmax: gates = the chosen probabilities, divided by
// (their sum + renormalize_epsilon) if c_renormalize. Then times routed_scale if c_scaled. Sums in order R32.
// c_lanes threads share a token: each ranks experts by counting the better ones (exact, no order dependence), then one
// thread forms the gates. Source: "softmax then top-k" routing (Shazeer et al. 2017) and its selected-softmax form.
KERNEL(RouteTopk)

shared uint chosen[1024];    // [tokens of the group, top_k]
shared float numerator[1024];

float score_of(uint token, uint e) {
    float x = p.logits.at[token * p.experts + e];
    if (c_selection_bias != 0u) x = x + p.selection_bias.at[e];
    return x;
}

// How many experts come before e: a larger score, or the same at a lower index.
uint rank_of(uint token, uint e) {
    uint key = order_key(score_of(token, e)), rank = 0u;
    for (uint other = 0u; other < p.experts; ++other) {
        uint k = order_key(score_of(token, other));
        rank += (k > key || (k == key && other < e)) ? 1u : 0u;
    }
    return rank;
}

float all_maximum(uint token) {
    float m = p.logits.at[token * p.experts];
    for (uint e = 1u; e < p.experts; ++e) {
        float x = p.logits.at[token * p.experts + e];
        m = x > m ? x : m;
    }
    return m;
}

// Sum over all experts of exp(logit - m), in order R32.
float all_sum(uint token, float m) {
    uint row = token * p.experts;
    float total = exact_exp(p.logits.at[row] - m);
    for (uint e = 1u; e < min(kBlock, p.experts); ++e) total = total + exact_exp(p.logits.at[row + e] - m);
    for (uint e0 = kBlock; e0 < p.experts; e0 += kBlock) {
        float s = exact_exp(p.logits.at[row + e0] - m);
        for (uint e = e0 + 1u; e < min(e0 + kBlock, p.experts); ++e) s = s + exact_exp(p.logits.at[row + e] - m);
        total = total + s;
    }
    return total;
}

// Sum of the group's numerators first .. first+top_k-1, in order R32.
float chosen_sum(uint first) {
    float total = numerator[first];
    for (uint j = 1u; j < min(kBlock, p.top_k); ++j) total = total + numerator[first + j];
    for (uint j0 = kBlock; j0 < p.top_k; j0 += kBlock) {
        float s = numerator[first + j0];
        for (uint j = j0 + 1u; j < min(j0 + kBlock, p.top_k); ++j) s = s + numerator[first + j];
        total = total + s;
    }
    return total;
}

void write_gates(uint token, uint first, float m, float sum) {
    float m_chosen = p.logits.at[token * p.experts + chosen[first]];
    for (uint j = 1u; j < p.top_k; ++j) {
        float x = p.logits.at[token * p.experts + chosen[first + j]];
        m_chosen = x > m_chosen ? x : m_chosen;
    }
    for (uint j = 0u; j < p.top_k; ++j) {
        float x = p.logits.at[token * p.experts + chosen[first + j]];
        numerator[first + j] = c_score == kSoftmax ? exact_div(exact_exp(x - m), sum) : exact_exp(x - m_chosen);
    }
    bool divide = c_score == kSoftmaxSelected || c_renormalize != 0u;
    float divisor = divide ? chosen_sum(first) : m;
    if (c_score == kSoftmax && c_renormalize != 0u) divisor = divisor + p.renormalize_epsilon;
    for (uint j = 0u; j < p.top_k; ++j) {
        float gate = divide ? exact_div(numerator[first + j], divisor) : numerator[first + j];
        if (c_scaled != 0u) gate = operand_rule(gate) * p.routed_scale;
        uint at = token * p.top_k + j;
        p.selected.at[at] = chosen[first + j];
        p.gates.at[at] = state_rule(checked(gate, p.status, at));
    }
}

void main() {
    uint group_tokens = kWorkgroup / c_lanes;
    uint local = lane_index() / c_lanes, lane = lane_index() % c_lanes;
    uint token = group_index() * group_tokens + local, first = local * p.top_k;
    if (token < p.tokens) {
        for (uint e = lane; e < p.experts; e += c_lanes) {
            uint rank = rank_of(token, e);
            if (rank < p.top_k) chosen[first + rank] = e;
        }
    }
    barrier();
    if (token >= p.tokens) return;
    bool all = c_score == kSoftmax || c_probabilities != 0u;
    float m = all ? all_maximum(token) : p.logits.at[token * p.experts];
    float sum = all ? all_sum(token, m) : m;
    if (lane == 0u) write_gates(token, first, m, sum);
    if (c_probabilities == 0u) return;
    for (uint e = lane; e < p.experts; e += c_lanes) {
        uint at = token * p.experts + e;
        p.probabilities.at[at] = state_rule(exact_div(exact_exp(p.logits.at[at] - m), sum));
    }
}
