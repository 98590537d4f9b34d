#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/kernel.glsl"
// pack_panels: a row-major weight matrix into panels of 16 rows, the layout every expert kernel reads.
//   in   source [rows, cols]            values in c_weight_format; row r is row r*row_step of the source
//        scales [rows, cols/32]         kMxfp4: one e8m0 byte a block of 32 columns; cols is a multiple of 32
//   out  target [panels][cols][16]      f32, or c_widen: one word per value;
//               [panels][ceil(cols/2)][16]  f16, bf16: the words of two consecutive columns, the even one low
//               [panels][cols/8 + ceil(cols/128)][16]  kMxfp4: for every 128 columns a row of words with the scales of
//                                       their four blocks (first lowest), then rows with the codes of eight columns each
// The operand rule is applied (f16 and codes need none); rows and columns of padding are zero and never read as terms of
// a sum. One thread a target word. Values that are not finite, or not below 2^63, are counted by row-major element, an
// MXFP4 scale of 255 at the first element of its block.
KERNEL(PackPanels)

float element(uint row, uint col, out uint at) {
    at = row * p.cols + col;
    return checked(decode_element(p.source, row * p.row_step * p.cols + col, c_weight_format), p.status, at);
}

uint packed_half(uint row, uint col) {
    if (row >= p.rows || col >= p.cols) return 0u;
    uint at;
    float x = element(row, col, at);
    uint i = row * p.row_step * p.cols + col, word = p.source.at[i >> 1];
    uint h = (i & 1u) == 0u ? word & 0xffffu : word >> 16;
    return c_weight_format == kBf16 && magnitude_bits(operand_rule_bf16(x)) == 0u ? 0u : h;
}

// The scale byte of a block of 32 columns.
uint scale_byte(uint row, uint block) {
    uint i = row * p.row_step * (p.cols / kBlock) + block;
    uint s = p.scales.at[i / 4u] >> (i % 4u * 8u) & 255u;
    if (s == 255u) flag(p.status, row * p.cols + block * kBlock);
    return s;
}

uint packed_scales(uint row, uint block) {
    uint word = 0u;
    for (uint i = 0u; i < kScaleGroup && block + i < p.cols / kBlock; ++i)
        word |= scale_byte(row, block + i) << (8u * i);
    return word;
}

uint code_at(uint row, uint col) {
    uint j = col % kBlock;
    uint i = c_nibbles == kAdjacent ? j : (j % 16u) * 2u + j / 16u;  // nibble within the block's 16 bytes
    uint word = p.source.at[row * p.row_step * (p.cols / 8u) + col / kBlock * 4u + i / 8u];
    return word >> (i % 8u * 4u) & 15u;
}

uint packed_codes(uint row, uint col) {
    uint word = 0u, at = row * p.row_step * (p.cols / kBlock) + col / kBlock;
    uint s = p.scales.at[at / 4u] >> (at % 4u * 8u) & 255u;
    float half_scale = mxfp4_half_scale(s == 255u ? 0u : s);  // 255 is counted once a block
    for (uint i = 0u; i < 8u; ++i) {
        uint code = code_at(row, col + i);
        checked(mxfp4_code(code) * half_scale, p.status, row * p.cols + col + i);
        word |= code << (4u * i);
    }
    return word;
}

// A scale in the sum of a dequantised weight: code * 2^(s-127), exact.
float mxfp4_element(uint row, uint col) {
    return mxfp4_code(code_at(row, col)) * mxfp4_half_scale(scale_byte(row, col / kBlock));
}

uint panel_word(uint row, uint step) {
    if (c_widen != 0u || c_weight_format == kF32) {
        uint at = row * p.cols + step;
        float x = c_weight_format == kMxfp4 ? checked(mxfp4_element(row, step), p.status, at) : element(row, step, at);
        return floatBitsToUint(operand_rule(x));
    }
    if (c_weight_format != kMxfp4) return packed_half(row, 2u * step) | packed_half(row, 2u * step + 1u) << 16;
    const uint rows = kScaleGroup * kBlock / 8u + 1u;  // word rows of 128 columns
    uint group = step / rows, within = step % rows;
    return within == 0u ? packed_scales(row, group * kScaleGroup)
                        : packed_codes(row, group * kScaleGroup * kBlock + (within - 1u) * 8u);
}

uint steps() {
    if (c_widen != 0u || c_weight_format == kF32) return p.cols;
    if (c_weight_format != kMxfp4) return (p.cols + 1u) / 2u;
    return p.cols / 8u + (p.cols + kScaleGroup * kBlock - 1u) / (kScaleGroup * kBlock);
}

void main() {
    uint i = thread_index(), lane = i % kPanel, step = i / kPanel % steps(), panel = i / kPanel / steps();
    if (panel >= (p.rows + kPanel - 1u) / kPanel) return;
    uint row = panel * kPanel + lane;
    p.target.at[i] = row < p.rows ? panel_word(row, step) : 0u;
}
