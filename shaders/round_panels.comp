#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/kernel.glsl"
// round_panels: f32 panels of a matrix into bf16 panels, for pages first_page .. first_page + pages - 1.
//   in   source [pages]: from word source_weight on [ceil(rows/16)][cols][16] f32
//   out  target [pages]: from word target_weight on [ceil(rows/16)][ceil(cols/2)][16] words of two consecutive columns, the
//        even one low (the layout of pack_panels)
// One thread a target word. A weight is rounded to nearest even, then +0 if below 2^-56 (the operand rule of bf16); what
// pads an odd last column is zero. Weights are finite: whoever stored them has checked them.
KERNEL(RoundPanels)

uint rounded(U32 page, uint at) {
    uint h = bf16_encode(uintBitsToFloat(page.at[at]));
    return magnitude_bits(operand_rule_bf16(bf16_decode(h))) == 0u ? 0u : h;
}

void main() {
    uint steps = (p.cols + 1u) / 2u, panels = (p.rows + kPanel - 1u) / kPanel;
    uint i = thread_index(), lane = i % kPanel, step = i / kPanel % steps, panel = i / kPanel / steps % panels;
    uint page = i / kPanel / steps / panels;
    if (page >= p.pages) return;
    U32 source = p.source.at[p.first_page + page], target = p.target.at[p.first_page + page];
    uint at = p.source_weight + (panel * p.cols + 2u * step) * kPanel + lane;
    uint word = rounded(source, at);
    if (2u * step + 1u < p.cols) word |= rounded(source, at + kPanel) << 16;
    target.at[p.target_weight + i % (panels * steps * kPanel)] = word;
}
