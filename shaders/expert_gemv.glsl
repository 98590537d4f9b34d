// The few-token form: one workgroup a row and a panel of 16 outputs, four threads an output, each summing every fourth
// block; the totals are combined in ascending order, so the bits are those of the GEMM.

shared float block_total[kWorkgroup];

// The R32 sum of one output, valid in the threads of walker 0. Every thread of the workgroup must call it.
float row_dot(F32 x, uint row, U32 page, uint weight, uint bias, bool biased, uint panel, uint outputs, uint cols) {
    uint lane = lane_index() % kPanel, walker = lane_index() / kPanel;
    uint base = weight + panel * panel_steps(cols) * kPanel, blocks = (cols + kBlock - 1u) / kBlock;
    float total = uintBitsToFloat(0u);
    for (uint first = 0u; first < blocks; first += 4u) {
        uint block = first + walker;
        if (block < blocks)
            block_total[lane_index()] =
                block_dot(x, row, page, base, lane, block * kBlock, min((block + 1u) * kBlock, cols));
        memoryBarrierShared();
        barrier();
        for (uint i = 0u; i < min(4u, blocks - first); ++i) {
            float s = block_total[i * kPanel + lane];
            if (first + i != 0u)
                total = total + s;
            else if (biased)
                total = uintBitsToFloat(page.at[bias + min(panel * kPanel + lane, outputs - 1u)]) + s;
            else
                total = s;
        }
        memoryBarrierShared();
        barrier();
    }
    return total;
}

// The expert of a slot: the last one whose first slot is not after it.
uint expert_of_slot(U32 offsets, uint experts, uint slot) {
    uint low = 0u, high = experts;
    while (high - low > 1u) {
        uint middle = (low + high) / 2u;
        if (offsets.at[middle] <= slot)
            low = middle;
        else
            high = middle;
    }
    return low;
}
