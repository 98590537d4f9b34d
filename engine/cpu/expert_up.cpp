#include "engine/cpu/panel.h"

namespace vkmoe {
inline namespace v1 {
namespace cpu {
namespace {

void upOutput(const ExpertUp& p, const Constants& c, const uint32_t* page, uint32_t row, uint32_t output) {
    const float* x = p.x.at + uint64_t{c.dense != 0 ? row : p.token_of.at[row]} * p.model_dim;
    float up = pageDot(x, page, p.up_weight, p.up_bias, output, p.model_dim, c), gate = up;
    if (c.activation != kRelu) gate = pageDot(x, page, p.gate_weight, p.gate_bias, output, p.model_dim, c, kGateBias);
    uint32_t at = row * p.hidden_dim + output;
    float h = activate(gate, up, c.activation, p.swiglu_limit, p.swiglu_alpha);
    checkHidden(gate, up, h, p.status, at);
    p.hidden.at[at] = as_operand(h, c.operand_bits);
    if (c.keep_totals == 0) return;
    if (c.activation != kRelu) p.gate_total.at[at] = state_rule(gate);
    p.up_total.at[at] = state_rule(up);
}

// Tiles of kTileRows rows and `width` outputs.
void runTiles(const ExpertUp& p, const Constants& c, Groups groups, uint32_t width) {
    uint32_t columns = ceilDiv(p.hidden_dim, width);
    for (uint64_t group = groups.begin; group < groups.end; ++group) {
        TileRows tile = findTile(p, c, group / columns);
        uint32_t first = static_cast<uint32_t>(group % columns) * width, last = std::min(first + width, p.hidden_dim);
        for (uint32_t row = tile.first; row < tile.end; ++row)
            for (uint32_t output = first; output < last; ++output) upOutput(p, c, tile.page, row, output);
    }
}

}  // namespace

void expert_up(const ExpertUp& p, const Constants& c, Groups groups) { runTiles(p, c, groups, kPanel * kTilePanels); }

void expert_up_lanes(const ExpertUp& p, const Constants& c, Groups groups) { runTiles(p, c, groups, kLanesOutputs); }

void expert_up_gemv(const ExpertUp& p, const Constants& c, Groups groups) {
    uint32_t panels = ceilDiv(p.hidden_dim, kPanel);
    for (uint64_t group = groups.begin; group < std::min<uint64_t>(groups.end, uint64_t{gemvRows(p, c)} * panels);
         ++group) {
        uint32_t row = static_cast<uint32_t>(group / panels), first = static_cast<uint32_t>(group % panels) * kPanel;
        const uint32_t* page = pageOfSlot(p, c, row);
        if (!page) continue;
        for (uint32_t output = first; output < std::min(first + kPanel, p.hidden_dim); ++output)
            upOutput(p, c, page, row, output);
    }
}

}  // namespace cpu
}  // namespace v1
}  // namespace vkmoe
