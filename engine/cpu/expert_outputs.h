// Which rows and outputs a range of workgroups of an expert's GEMM computes, for the scalar twins.
#pragma once

#include <algorithm>

#include "engine/cpu/panel.h"

namespace vkmoe {
inline namespace v1 {
namespace cpu {

// body(page, row, output) of the tiled forms: a workgroup kTileRows rows and `width` of `outputs` outputs.
template <class Params, class Body>
void eachTileOutput(const Params& p, const Constants& c, Groups groups, uint32_t outputs, uint32_t width,
                    const Body& body) {
    uint32_t columns = ceilDiv(outputs, width);
    for (uint64_t group = groups.begin; group < groups.end; ++group) {
        TileRows tile = findTile(p, c, group / columns);
        uint32_t first = static_cast<uint32_t>(group % columns) * width, last = std::min(first + width, outputs);
        for (uint32_t row = tile.first; row < tile.end; ++row)
            for (uint32_t output = first; output < last; ++output) body(tile.page, row, output);
    }
}

// The same of the GEMV forms: a workgroup a row and a panel of outputs.
template <class Params, class Body>
void eachRowOutput(const Params& p, const Constants& c, Groups groups, uint32_t outputs, const Body& body) {
    uint32_t panels = ceilDiv(outputs, kPanel);
    uint64_t count = std::min<uint64_t>(groups.end, uint64_t{gemvRows(p, c)} * panels);
    for (uint64_t group = groups.begin; group < count; ++group) {
        uint32_t row = static_cast<uint32_t>(group / panels), first = static_cast<uint32_t>(group % panels) * kPanel;
        const uint32_t* page = pageOfSlot(p, c, row);
        if (!page) continue;
        for (uint32_t output = first; output < std::min(first + kPanel, outputs); ++output) body(page, row, output);
    }
}

}  // namespace cpu
}  // namespace v1
}  // namespace vkmoe
