#include "engine/cpu/panel.h"

namespace vkmoe {
inline namespace v1 {
namespace cpu {
namespace {

uint32_t rounded(const uint32_t* page, uint32_t at) {
    uint32_t h = bf16_encode(uintBitsToFloat(page[at]));
    return magnitude_bits(operand_rule_bf16(bf16_decode(h))) == 0 ? 0 : h;
}

}  // namespace

void round_panels(const RoundPanels& p, const Constants&, Groups groups) {
    uint32_t steps = ceilDiv(p.cols, 2), words = ceilDiv(p.rows, kPanel) * steps * kPanel;  // of a page
    eachThread(groups, uint64_t{p.pages} * words, [&](uint32_t i) {
        const uint32_t* source = p.source.at[p.first_page + i / words].at;
        uint32_t within = i % words, step = within / kPanel % steps, panel = within / kPanel / steps;
        uint32_t at = p.source_weight + (panel * p.cols + 2 * step) * kPanel + i % kPanel, word = rounded(source, at);
        if (2 * step + 1 < p.cols) word |= rounded(source, at + kPanel) << 16;
        p.target.at[p.first_page + i / words].at[p.target_weight + within] = word;
    });
}

}  // namespace cpu
}  // namespace v1
}  // namespace vkmoe
