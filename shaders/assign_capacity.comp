#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/kernel.glsl"
// assign_capacity: experts take at most `capacity` tokens each; a token that finds its best experts full takes the next.
//   in     keys [tokens, experts] larger is better, 0 never; scores [tokens, experts] (both from route_topk)
//   in/out taken [experts] tokens accepted so far
//   out    selected [tokens, top_k], gates [tokens, top_k]
// Tokens first_token .. first_token+tokens-1 are served one after the other, by one workgroup. A token that got fewer than
// top_k experts repeats its last one with gate 0; one that got none goes to expert 0 with score 1/top_k, uncounted. Then
// gates are formed of the scores as in route_topk, over the accepted experts. Source: entrenar's MoE router.
KERNEL(AssignCapacity)

shared uint taken[1024];
shared uint best_key[kWorkgroup];
shared uint best[kWorkgroup];
shared uint chosen[1024];  // of one token: a bit mask would do, but the order counts
shared float score[1024];
shared uint accepted;

// The best expert with room that is not yet chosen, for one lane's share.
void find_best(uint row) {
    uint k = 0u, found = 0u;
    for (uint e = lane_index(); e < p.experts; e += kWorkgroup) {
        uint candidate = (taken[e] & 0x7fffffffu) < p.capacity && (taken[e] & 0x80000000u) == 0u ? p.keys.at[row + e] : 0u;
        if (candidate > k) {
            k = candidate;
            found = e;
        }
    }
    best_key[lane_index()] = k;
    best[lane_index()] = found;
}

// One lane takes the best of all lanes'; the top bit of `taken` marks what this token has chosen.
void accept_best(uint row) {
    uint k = 0u, found = 0u;
    for (uint i = 0u; i < min(kWorkgroup, p.experts); ++i)
        if (best_key[i] > k || (best_key[i] == k && k != 0u && best[i] < found)) {
            k = best_key[i];
            found = best[i];
        }
    if (k == 0u) return;
    taken[found] = (taken[found] + 1u) | 0x80000000u;
    chosen[accepted] = found;
    score[accepted] = p.scores.at[row + found];
    accepted += 1u;
}

float chosen_sum() {
    float total = score[0];
    for (uint j = 1u; j < min(kBlock, accepted); ++j) total = total + score[j];
    for (uint j0 = kBlock; j0 < accepted; j0 += kBlock) {
        float s = score[j0];
        for (uint j = j0 + 1u; j < min(j0 + kBlock, accepted); ++j) s = s + score[j];
        total = total + s;
    }
    return total;
}

void exponentiate() {
    float m = score[0];
    for (uint j = 1u; j < accepted; ++j) m = score[j] > m ? score[j] : m;
    for (uint j = 0u; j < accepted; ++j) score[j] = exact_exp(score[j] - m);
}

void write_gates(uint token) {
    bool none = accepted == 0u;
    if (none) {
        chosen[0] = 0u;
        score[0] = exact_div(uintBitsToFloat(0x3f800000u), float(p.top_k));
        accepted = 1u;
    }
    if (c_score == kSoftmaxSelected && !none) exponentiate();
    float divisor = chosen_sum();
    if (c_score != kSoftmaxSelected) divisor = divisor + p.renormalize_epsilon;
    bool divide = (c_score == kSoftmaxSelected || c_renormalize != 0u) && magnitude_bits(divisor) != 0u;
    for (uint j = 0u; j < p.top_k; ++j) {
        uint at = token * p.top_k + j, expert = chosen[min(j, accepted - 1u)];
        float gate = uintBitsToFloat(0u);
        if (j < accepted) gate = divide ? exact_div(score[j], divisor) : score[j];
        if (none && j > 0u) expert = 0u;
        if (c_scaled != 0u) gate = state_rule(gate) * p.routed_scale;
        p.selected.at[at] = expert;
        p.gates.at[at] = state_rule(checked(gate, p.status, at));
    }
}

void main() {
    if (group_index() != 0u) return;
    for (uint e = lane_index(); e < p.experts; e += kWorkgroup) taken[e] = p.taken.at[e];
    for (uint t = 0u; t < p.tokens; ++t) {
        uint token = p.first_token + t;
        if (lane_index() == 0u) accepted = 0u;
        memoryBarrierShared();
        barrier();
        for (uint j = 0u; j < min(p.top_k, p.experts); ++j) {
            find_best(token * p.experts);
            memoryBarrierShared();
            barrier();
            if (lane_index() == 0u) accept_best(token * p.experts);
            memoryBarrierShared();
            barrier();
        }
        if (lane_index() == 0u) write_gates(token);
        for (uint e = lane_index(); e < p.experts; e += kWorkgroup) taken[e] &= 0x7fffffffu;
        memoryBarrierShared();
        barrier();
    }
    for (uint e = lane_index(); e < p.experts; e += kWorkgroup) p.taken.at[e] = taken[e];
}
