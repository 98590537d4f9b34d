#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/kernel.glsl"
// pack_panels: a row-major weight matrix into panels of 16 rows, the layout every expert kernel reads.
//   in   source [rows, cols]            values in c_weight_format
//   out  target [panels][cols][16]      f32, or c_widen: one word per value;
//               [panels][ceil(cols/2)][16]  f16, bf16: the words of two consecutive columns, the even one low
// The operand rule is applied (f16 needs none); rows and columns of padding are zero and never read as terms of a sum.
// One thread a target word. Values that are not finite, or not below 2^63, are counted by row-major element.
KERNEL(PackPanels)

uint packed_half(uint row, uint col) {
    if (row >= p.rows || col >= p.cols) return 0u;
    uint i = row * p.cols + col;
    uint word = p.source.at[i >> 1];
    uint h = (i & 1u) == 0u ? word & 0xffffu : word >> 16;
    float x = checked(c_weight_format == kF16 ? f16_decode(h) : bf16_decode(h), p.status, i);
    return c_weight_format == kBf16 && magnitude_bits(operand_rule_bf16(x)) == 0u ? 0u : h;
}

void main() {
    uint i = thread_index();
    bool whole_words = c_weight_format == kF32 || c_widen != 0u;
    uint lane = i % kPanel, steps = whole_words ? p.cols : (p.cols + 1u) / 2u;
    uint step = i / kPanel % steps, row = i / kPanel / steps * kPanel + lane;
    if (i / kPanel / steps >= (p.rows + kPanel - 1u) / kPanel) return;
    if (!whole_words) {
        p.target.at[i] = packed_half(row, 2u * step) | packed_half(row, 2u * step + 1u) << 16;
        return;
    }
    uint bits = 0u;
    if (row < p.rows) {
        uint at = row * p.cols + step;
        float x = checked(decode_element(p.source, at, c_weight_format), p.status, at);
        bits = floatBitsToUint(operand_rule(x));
    }
    p.target.at[i] = bits;
}
