// The softmax over all experts of a token by c_lanes threads, with the bits of route_topk. A group serves
// kWorkgroup / c_lanes tokens, whose experts are at most 1,024 together.
shared float score[1024];            // [tokens, experts]
shared float lane_value[kWorkgroup];  // lanes' maxima, then totals of blocks of experts

struct Lane {
    uint token, local, index;  // the token, its number in the group, the lane of it
    bool used;
};

Lane token_lane(uint tokens) {
    Lane lane;
    lane.local = lane_index() / c_lanes;
    lane.index = lane_index() % c_lanes;
    lane.token = group_index() * (kWorkgroup / c_lanes) + lane.local;
    lane.used = lane.token < tokens;
    return lane;
}

// The sum of a token's block totals, which are in lane_value.
float sum_blocks(Lane lane, uint experts) {
    uint blocks = (experts + kBlock - 1u) / kBlock, first = lane.local * blocks;
    float total = lane_value[first];
    for (uint i = 1u; i < blocks; ++i) total = total + lane_value[first + i];
    return total;
}

struct Softmax {
    float largest, sum;  // the largest logit; the sum of exp(logit - largest)
};

// Leaves the lane's probabilities in score: others see them after a barrier. Every thread of the workgroup must call it.
Softmax softmax_token(Lane lane, F32 logits, uint experts) {
    uint base = lane.local * experts, row = lane.token * experts, blocks = (experts + kBlock - 1u) / kBlock;
    Softmax result;
    result.largest = uintBitsToFloat(0u);
    if (lane.used) result.largest = logits.at[row];
    for (uint e = lane.index; lane.used && e < experts; e += c_lanes) {
        score[base + e] = logits.at[row + e];
        result.largest = score[base + e] > result.largest ? score[base + e] : result.largest;
    }
    lane_value[lane_index()] = result.largest;
    memoryBarrierShared();
    barrier();
    for (uint i = 0u; i < c_lanes; ++i) {
        float x = lane_value[lane.local * c_lanes + i];
        result.largest = x > result.largest ? x : result.largest;
    }
    for (uint e = lane.index; lane.used && e < experts; e += c_lanes)
        score[base + e] = exact_exp(score[base + e] - result.largest);
    memoryBarrierShared();
    barrier();
    for (uint b = lane.index; lane.used && b < blocks; b += c_lanes) {
        float s = score[base + b * kBlock];
        for (uint e = b * kBlock + 1u; e < min((b + 1u) * kBlock, experts); ++e) s = s + score[base + e];
        lane_value[lane.local * blocks + b] = s;
    }
    memoryBarrierShared();
    barrier();
    result.sum = uintBitsToFloat(0x3f800000u);
    if (lane.used) result.sum = sum_blocks(lane, experts);
    for (uint e = lane.index; lane.used && e < experts; e += c_lanes)
        score[base + e] = exact_div(score[base + e], result.sum);
    return result;
}
