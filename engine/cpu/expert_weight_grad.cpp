#include "engine/cpu/weight_grad.h"

namespace vkmoe {
inline namespace v1 {
namespace cpu {
namespace {

// The two accumulators of R32 for one word of a gradient, over the slots of a chunk. -0 is where a sum starts: -0 + s
// is s, bit for bit.
class ChunkSum {
public:
    ChunkSum(const GradSlots& slots, uint32_t word) {
        if (GradSlots::hasTotal(slots.before)) total_ = uintBitsToFloat(slots.totals[word]);
        if (GradSlots::hasPartial(slots.before)) sum_ = uintBitsToFloat(slots.partials[word]);
        rank_ = slots.before;
    }

    void add(float term) {
        sum_ = sum_ + term;
        if (++rank_ % kBlock != 0) return;
        total_ = total_ + sum_;
        sum_ = -0.0f;
    }

    // Into the gradient, or on to the next chunk.
    void finish(const ExpertWeightGrad& p, const GradSlots& slots, uint32_t word) const {
        if (slots.last) return addGradient(p, slots.grads, word, total_ + sum_);
        if (GradSlots::hasTotal(rank_)) slots.totals[word] = floatBitsToUint(normal_or_zero(total_));
        if (GradSlots::hasPartial(rank_)) slots.partials[word] = floatBitsToUint(normal_or_zero(sum_));
    }

private:
    float total_ = -0.0f, sum_ = -0.0f;
    uint32_t rank_ = 0;
};

void weightWord(const ExpertWeightGrad& p, const Constants& c, const GradSlots& slots, uint32_t row, uint32_t col) {
    uint32_t word = gradWord(p, row, col);
    ChunkSum sum(slots, word);
    for (uint32_t slot = slots.first; slot < slots.end; ++slot)
        sum.add(p.grad_out.at[uint64_t{slot} * p.rows + row] * as_operand(gradInput(p, c, slot)[col], c.operand_bits));
    sum.finish(p, slots, word);
}

void biasWord(const ExpertWeightGrad& p, const GradSlots& slots, uint32_t row) {
    ChunkSum sum(slots, p.bias + row);
    for (uint32_t slot = slots.first; slot < slots.end; ++slot) sum.add(p.grad_out.at[uint64_t{slot} * p.rows + row]);
    sum.finish(p, slots, p.bias + row);
}

}  // namespace

void expert_weight_grad(const ExpertWeightGrad& p, const Constants& c, Groups groups) {
    constexpr uint32_t kWidth = kPanel * kTilePanels;
    const uint32_t row_tiles = ceilDiv(p.rows, kTileRows), col_tiles = ceilDiv(p.cols, kWidth);
    uint64_t count = uint64_t{gradExperts(p, c)} * row_tiles * col_tiles;
    for (uint64_t group = groups.begin; group < std::min(groups.end, count); ++group) {
        GradSlots slots = findSlots(p, c, uint32_t(group / row_tiles / col_tiles));
        if (slots.nothing()) continue;
        uint32_t row0 = uint32_t(group % row_tiles) * kTileRows,
                 col0 = uint32_t(group / row_tiles % col_tiles) * kWidth;
        for (uint32_t row = row0; row < std::min(row0 + kTileRows, p.rows); ++row) {
            for (uint32_t col = col0; col < std::min(col0 + kWidth, p.cols); ++col) weightWord(p, c, slots, row, col);
            if ((c.bias & kBias) != 0 && col0 == 0) biasWord(p, slots, row);
        }
    }
}

}  // namespace cpu
}  // namespace v1
}  // namespace vkmoe
