// What the twins of expert_weight_grad and its lanes form share: one sum a word.
#pragma once

#include <algorithm>

#include "engine/ceil_div.h"
#include "engine/cpu/weight_grad.h"

namespace vkmoe {
inline namespace v1 {
namespace cpu {

inline void addWeightWord(const ExpertWeightGrad& p, const Constants& c, const GradSlots& slots, uint32_t row,
                          uint32_t col) {
    uint32_t word = gradWord(p, row, col);
    ChunkSum sum(slots, word);
    for (uint32_t slot = slots.first; slot < slots.end; ++slot)
        sum.add(p.grad_out.at[uint64_t{slot} * p.rows + row] * as_operand(gradInput(p, c, slot)[col], c.operand_bits));
    sum.finish(p, slots, word);
}

inline void addBiasWord(const ExpertWeightGrad& p, const GradSlots& slots, uint32_t row) {
    ChunkSum sum(slots, p.bias + row);
    for (uint32_t slot = slots.first; slot < slots.end; ++slot) sum.add(p.grad_out.at[uint64_t{slot} * p.rows + row]);
    sum.finish(p, slots, p.bias + row);
}

// A workgroup kTileRows rows x `width` columns.
inline void addWeightGradients(const ExpertWeightGrad& p, const Constants& c, Groups groups, uint32_t width) {
    const uint32_t row_tiles = ceilDiv(p.rows, kTileRows), col_tiles = ceilDiv(p.cols, width);
    uint64_t count = uint64_t{gradExperts(p, c)} * row_tiles * col_tiles;
    for (uint64_t group = groups.begin; group < std::min(groups.end, count); ++group) {
        GradSlots slots = findSlots(p, c, uint32_t(group / row_tiles / col_tiles));
        if (slots.nothing()) continue;
        uint32_t row0 = uint32_t(group % row_tiles) * kTileRows, col0 = uint32_t(group / row_tiles % col_tiles) * width;
        for (uint32_t row = row0; row < std::min(row0 + kTileRows, p.rows); ++row) {
            for (uint32_t col = col0; col < std::min(col0 + width, p.cols); ++col) addWeightWord(p, c, slots, row, col);
            if ((c.bias & kBias) != 0 && col0 == 0) addBiasWord(p, slots, row);
        }
    }
}

}  // namespace cpu
}  // namespace v1
}  // namespace vkmoe
