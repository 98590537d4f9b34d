// The R32 sum of a row's terms by a workgroup: terms are formed in memory order, then each thread sums a block, and the
// first thread the block totals. Includers define row_term: term k of row `row`, with `other` as they like.
shared float term[kWorkgroup * (kBlock + 1u)];  // blocks begin in different banks
shared float block_total[kWorkgroup];

float row_term(uint row, uint other, uint k);

// Over `count` terms, above 0. Valid in lane 0; every thread of the workgroup must call it.
float row_total(uint row, uint other, uint count) {
    float total = uintBitsToFloat(0u);
    for (uint first = 0u; first < count; first += kWorkgroup * kBlock) {
        uint here = min(kWorkgroup * kBlock, count - first), begin = lane_index() * kBlock;
        for (uint k = lane_index(); k < here; k += kWorkgroup) term[k + k / kBlock] = row_term(row, other, first + k);
        memoryBarrierShared();
        barrier();
        if (begin < here) {
            uint at = begin + lane_index();
            float s = term[at];
            for (uint k = 1u; k < min(kBlock, here - begin); ++k) s = s + term[at + k];
            block_total[lane_index()] = s;
        }
        memoryBarrierShared();
        barrier();
        for (uint i = 0u; lane_index() == 0u && i * kBlock < here; ++i)
            total = first + i == 0u ? block_total[0] : total + block_total[i];
    }
    return total;
}
