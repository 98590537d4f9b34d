#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/kernel.glsl"
// route_topk: chooses top_k experts for each token and gives them gates.
//   in   logits [tokens, experts]; selection_bias [experts] if c_selection_bias
//   out  selected [tokens, top_k] best first, ties to the lower index; gates [tokens, top_k];
//        probabilities [tokens, experts], softmax over all experts, if c_probabilities
//        with c_capacity instead of selected and gates: keys and scores [tokens, experts] for assign_capacity
// An expert's score is, by c_score: kSoftmax its probability, kSigmoid sigmoid(logit), kSoftmaxSelected its logit.
// Chosen are the largest scores, plus selection_bias where there is one (without one, and without sums over groups, the
// largest logits: the same order, where scores do not round to the same value); c_group_score keeps only the groups_kept best of
// `groups` equal groups (by the largest member, or by the sum of the two largest).
// Gates: the chosen scores (kSoftmaxSelected: the softmax of the chosen logits), divided by (their sum +
// renormalize_epsilon) if c_renormalize (1/top_k each if that is zero), times routed_scale if c_scaled. Sums: order R32.
// c_lanes threads share a token: each ranks experts by counting the better ones (exact, no order dependence), then one
// thread forms the gates. Sources: Shazeer et al. 2017; DeepSeek-V2 and V3 for groups and selection bias.
KERNEL(RouteTopk)

// Of the group's tokens: [tokens, experts], [tokens, experts], [tokens, top_k] (before: lane maxima, then group keys).
shared uint key[1024];
shared float score[1024];
shared uint chosen[1024];
shared float block_total[64];

float key_value(uint k) { return uintBitsToFloat((k & 0x80000000u) != 0u ? k & 0x7fffffffu : ~k); }

bool wants_softmax() { return c_score == kSoftmax || c_probabilities != 0u; }

// The sum of score[first ..] from its block totals, which begin at block_total[block].
float ordered_sum(uint block) {
    float total = block_total[block];
    for (uint i = 1u; i < (p.experts + kBlock - 1u) / kBlock; ++i) total = total + block_total[block + i];
    return total;
}

float block_sum(uint first, uint count) {
    float s = score[first];
    for (uint i = 1u; i < count; ++i) s = s + score[first + i];
    return s;
}

// Sum of the chosen experts' scores, in order R32 over the selection rank.
float chosen_sum(uint base, uint first) {
    float total = score[base + chosen[first]];
    for (uint j = 1u; j < min(kBlock, p.top_k); ++j) total = total + score[base + chosen[first + j]];
    for (uint j0 = kBlock; j0 < p.top_k; j0 += kBlock) {
        float s = score[base + chosen[first + j0]];
        for (uint j = j0 + 1u; j < min(j0 + kBlock, p.top_k); ++j) s = s + score[base + chosen[first + j]];
        total = total + s;
    }
    return total;
}

// The chosen logits' exponentials, relative to the largest.
void exponentiate_chosen(uint base, uint first) {
    float m = score[base + chosen[first]];
    for (uint j = 1u; j < p.top_k; ++j) {
        float x = score[base + chosen[first + j]];
        m = x > m ? x : m;
    }
    for (uint j = 0u; j < p.top_k; ++j) {
        uint at = base + chosen[first + j];
        score[at] = exact_exp(score[at] - m);
    }
}

void write_gates(uint token, uint base, uint first) {
    if (c_score == kSoftmaxSelected) exponentiate_chosen(base, first);
    bool divide = c_score == kSoftmaxSelected || c_renormalize != 0u;
    float divisor = uintBitsToFloat(0x3f800000u);
    bool even = false;
    if (divide) {
        divisor = chosen_sum(base, first);
        if (c_score != kSoftmaxSelected) divisor = divisor + p.renormalize_epsilon;
        even = magnitude_bits(divisor) == 0u;
    }
    for (uint j = 0u; j < p.top_k; ++j) {
        float gate = score[base + chosen[first + j]];
        if (even)
            gate = exact_div(uintBitsToFloat(0x3f800000u), float(p.top_k));
        else if (divide)
            gate = exact_div(gate, divisor);
        if (c_scaled != 0u) gate = state_rule(gate) * p.routed_scale;
        uint at = token * p.top_k + j;
        p.selected.at[at] = chosen[first + j];
        p.gates.at[at] = state_rule(checked(gate, p.status, at));
    }
}

// The largest logit of a token, from its lanes' maxima.
float all_maximum(uint first) {
    uint k = chosen[first];
    for (uint i = 1u; i < c_lanes; ++i) k = max(k, chosen[first + i]);
    return key_value(k);
}

// What groups are compared by.
uint group_key(uint first, uint size) {
    uint best = key[first], second = 0u;
    for (uint i = 1u; i < size; ++i) {
        uint k = key[first + i];
        second = max(second, min(best, k));
        best = max(best, k);
    }
    return c_group_score == kGroupMax ? best : order_key(key_value(best) + key_value(second));
}

// True if fewer than groups_kept groups come before group g.
bool group_is_kept(uint first, uint g) {
    uint k = chosen[first + g], rank = 0u;
    for (uint other = 0u; other < p.groups; ++other) {
        uint o = chosen[first + other];
        rank += (o > k || (o == k && other < g)) ? 1u : 0u;
    }
    return rank < p.groups_kept;
}

// How many experts come before e.
uint rank_of(uint base, uint e) {
    uint k = key[base + e], rank = 0u;
    for (uint other = 0u; other < p.experts; ++other) {
        uint o = key[base + other];
        rank += (o > k || (o == k && other < e)) ? 1u : 0u;
    }
    return rank;
}

// What an expert is chosen by.
float selection_score(uint base, uint e) {
    float c = score[base + e];
    if (c_selection_bias != 0u) c = c + p.selection_bias.at[e];
    return state_rule(c);
}

void main() {
    uint local = lane_index() / c_lanes, lane = lane_index() % c_lanes;
    uint token = group_index() * (kWorkgroup / c_lanes) + local;
    uint base = local * p.experts, row = token * p.experts;
    bool used = token < p.tokens;

    uint largest = 0u;
    for (uint e = lane; used && e < p.experts; e += c_lanes) {
        score[base + e] = p.logits.at[row + e];
        key[base + e] = order_key(score[base + e]);
        largest = max(largest, key[base + e]);
    }
    chosen[lane_index()] = largest;
    barrier();

    if (wants_softmax()) {
        float m = all_maximum(local * c_lanes);
        for (uint e = lane; used && e < p.experts; e += c_lanes) score[base + e] = exact_exp(score[base + e] - m);
        barrier();
        uint blocks = (p.experts + kBlock - 1u) / kBlock;
        for (uint b = lane; used && b < blocks; b += c_lanes)
            block_total[local * blocks + b] = block_sum(base + b * kBlock, min(kBlock, p.experts - b * kBlock));
        barrier();
        if (used) {
            float sum = ordered_sum(local * blocks);
            for (uint e = lane; e < p.experts; e += c_lanes) {
                score[base + e] = exact_div(score[base + e], sum);
                if (c_probabilities != 0u) p.probabilities.at[row + e] = state_rule(score[base + e]);
            }
        }
    }
    for (uint e = lane; used && c_score != kSoftmax && e < p.experts; e += c_lanes) {
        float x = p.logits.at[row + e];
        score[base + e] = c_score == kSigmoid ? exact_sigmoid(x) : x;
    }
    // Probabilities and sigmoids have the order of the logits: nothing to do without a bias or sums.
    if (c_selection_bias != 0u || c_group_score == kGroupSumOfTop2)
        for (uint e = lane; used && e < p.experts; e += c_lanes) key[base + e] = order_key(selection_score(base, e));
    barrier();

    if (c_group_score != kNoGroups) {
        uint size = p.experts / p.groups, first = local * p.groups;
        for (uint g = lane; used && g < p.groups; g += c_lanes) chosen[first + g] = group_key(base + g * size, size);
        barrier();
        for (uint e = lane; used && e < p.experts; e += c_lanes)
            if (!group_is_kept(first, e / size)) key[base + e] = 0u;  // below -infinity
        barrier();
    }
    if (c_capacity != 0u) {
        for (uint e = lane; used && e < p.experts; e += c_lanes) {
            p.keys.at[row + e] = key[base + e];
            p.scores.at[row + e] = score[base + e];
        }
        return;
    }
    uint first = local * p.top_k;
    for (uint e = lane; used && e < p.experts; e += c_lanes) {
        uint rank = rank_of(base, e);
        if (rank < p.top_k) chosen[first + rank] = e;
    }
    barrier();
    if (used && lane == 0u) write_gates(token, base, first);
}
