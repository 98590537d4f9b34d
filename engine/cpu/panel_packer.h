// What one thread of pack_panels sees, in scalar code; the functions have the names they have in the shader.
#pragma once

#include "engine/cpu/panel.h"

namespace vkmoe {
inline namespace v1 {

struct PanelPacker {
    const PackPanels& p;
    const Constants& c;

    float element(uint32_t row, uint32_t col) const {
        return checked(decodeElement(p.source.at, row * p.row_step * p.cols + col, c.weight_format), p.status,
                       row * p.cols + col);
    }

    uint32_t packedHalf(uint32_t row, uint32_t col) const {
        if (col >= p.cols) return 0;
        float x = element(row, col);
        uint32_t half = halfAt(p.source.at, row * p.row_step * p.cols + col);
        return c.weight_format == kBf16 && magnitude_bits(operand_rule_bf16(x)) == 0 ? 0 : half;
    }

    uint32_t scaleByte(uint32_t row, uint32_t block) const {
        uint32_t i = row * p.row_step * (p.cols / kBlock) + block, s = p.scales.at[i / 4] >> (i % 4 * 8) & 255u;
        if (s == 255) flag(p.status, row * p.cols + block * kBlock);
        return s;
    }

    uint32_t packedScales(uint32_t row, uint32_t block) const {
        uint32_t word = 0;
        for (uint32_t i = 0; i < kScaleGroup && block + i < p.cols / kBlock; ++i)
            word |= scaleByte(row, block + i) << (8 * i);
        return word;
    }

    uint32_t codeAt(uint32_t row, uint32_t col) const {
        uint32_t j = col % kBlock, i = c.nibbles == kAdjacent ? j : j % 16 * 2 + j / 16;
        return p.source.at[row * p.row_step * (p.cols / 8) + col / kBlock * 4 + i / 8] >> (i % 8 * 4) & 15u;
    }

    uint32_t packedCodes(uint32_t row, uint32_t col) const {
        uint32_t word = 0, at = row * p.row_step * (p.cols / kBlock) + col / kBlock;
        uint32_t s = p.scales.at[at / 4] >> (at % 4 * 8) & 255u;
        float half_scale = mxfp4_half_scale(s == 255 ? 0 : s);  // 255 is counted once a block
        for (uint32_t i = 0; i < 8; ++i) {
            uint32_t code = codeAt(row, col + i);
            checked(mxfp4_code(code) * half_scale, p.status, row * p.cols + col + i);
            word |= code << (4 * i);
        }
        return word;
    }

    float mxfp4Element(uint32_t row, uint32_t col) const {
        float x = mxfp4_code(codeAt(row, col)) * mxfp4_half_scale(scaleByte(row, col / kBlock));
        return checked(x, p.status, row * p.cols + col);
    }

    bool wide() const { return c.widen != 0 || c.weight_format == kF32; }
    uint32_t steps() const { return panelSteps(p.cols, wide() ? uint32_t{kF32} : c.weight_format); }

    uint32_t panelWord(uint32_t row, uint32_t step) const {
        if (row >= p.rows) return 0;
        if (wide())
            return floatBitsToUint(
                operand_rule(c.weight_format == kMxfp4 ? mxfp4Element(row, step) : element(row, step)));
        if (c.weight_format != kMxfp4) return packedHalf(row, 2 * step) | packedHalf(row, 2 * step + 1) << 16;
        constexpr uint32_t rows = kScaleGroup * kBlock / 8 + 1;
        uint32_t group = step / rows, within = step % rows;
        return within == 0 ? packedScales(row, group * kScaleGroup)
                           : packedCodes(row, group * kScaleGroup * kBlock + (within - 1) * 8);
    }
};

// Words of a panel: steps [begin, end) of it are wanted.
struct PanelSteps {
    uint32_t panel, begin, end;
    uint32_t* target;  // of step `begin`
};

}  // namespace v1
}  // namespace vkmoe
