#include "engine/cpu/weight_grad.h"

namespace vkmoe {
inline namespace v1 {
namespace cpu {
namespace {

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
