// The sum of one row in order R32 by a workgroup: lanes take blocks, lane 0 adds their totals in ascending order.
//
// The kernel that includes this defines term(i). row_sum may be called once; every lane has its result, and whatever the
// terms read has been read by then.
const uint kSumBlocks = 256u;  // totals held at a time
shared float block_totals[kSumBlocks];
shared float row_total;

float term(uint i);

float block_sum(uint first, uint end) {
    float s = term(first);
    for (uint i = first + 1u; i < end; ++i) s = s + term(i);
    return s;
}

float row_sum(uint count) {
    uint blocks = (count + kBlock - 1u) / kBlock;
    float total = uintBitsToFloat(0u);
    for (uint first = 0u; first < blocks; first += kSumBlocks) {
        uint held = min(kSumBlocks, blocks - first);
        for (uint b = lane_index(); b < held; b += kWorkgroup)
            block_totals[b] = block_sum((first + b) * kBlock, min((first + b + 1u) * kBlock, count));
        memoryBarrierShared();
        barrier();
        for (uint b = 0u; lane_index() == 0u && b < held; ++b)
            total = first + b == 0u ? block_totals[0] : total + block_totals[b];
        memoryBarrierShared();
        barrier();
    }
    if (lane_index() == 0u) row_total = total;
    memoryBarrier();
    barrier();
    return row_total;
}
