#include "engine/cpu/panel.h"

namespace vkmoe {
inline namespace v1 {
namespace cpu {
namespace {

void downOutput(const ExpertDown& p, const Constants& c, const uint32_t* page, uint32_t row, uint32_t output) {
    const float* hidden = p.hidden.at + uint64_t{row} * p.hidden_dim;
    float y = pageDot(hidden, page, p.down_weight, p.down_bias, output, p.hidden_dim, c);
    uint32_t at = row * p.model_dim + output;
    p.y.at[at] = state_rule(checked(y, p.status, at));
}

// Tiles of kTileRows rows and `width` outputs.
void runTiles(const ExpertDown& p, const Constants& c, Groups groups, uint32_t width) {
    uint32_t columns = ceilDiv(p.model_dim, width);
    for (uint64_t group = groups.begin; group < groups.end; ++group) {
        TileRows tile = findTile(p, c, group / columns);
        uint32_t first = static_cast<uint32_t>(group % columns) * width, last = std::min(first + width, p.model_dim);
        for (uint32_t row = tile.first; row < tile.end; ++row)
            for (uint32_t output = first; output < last; ++output) downOutput(p, c, tile.page, row, output);
    }
}

}  // namespace

void expert_down(const ExpertDown& p, const Constants& c, Groups groups) {
    runTiles(p, c, groups, kPanel * kTilePanels);
}

void expert_down_lanes(const ExpertDown& p, const Constants& c, Groups groups) {
    runTiles(p, c, groups, kLanesOutputs);
}

void expert_down_gemv(const ExpertDown& p, const Constants& c, Groups groups) {
    uint32_t panels = ceilDiv(p.model_dim, kPanel);
    for (uint64_t group = groups.begin; group < std::min<uint64_t>(groups.end, uint64_t{gemvRows(p, c)} * panels);
         ++group) {
        uint32_t row = static_cast<uint32_t>(group / panels), first = static_cast<uint32_t>(group % panels) * kPanel;
        const uint32_t* page = pageOfSlot(p, c, row);
        if (!page) continue;
        for (uint32_t output = first; output < std::min(first + kPanel, p.model_dim); ++output)
            downOutput(p, c, page, row, output);
    }
}

}  // namespace cpu
}  // namespace v1
}  // namespace vkmoe
