#include "engine/cpu/twin.h"

namespace vkmoe {
inline namespace v1 {
namespace cpu {
namespace {

void writeGroups(U32 groups, uint32_t count) {
    uint32_t x = std::min(count, 65535u);
    groups.at[0] = x;
    groups.at[1] = x == 0 ? 0 : ceilDiv(count, x);
    groups.at[2] = x == 0 ? 0 : 1;
}

}  // namespace

void bin_offsets(const BinTokens& p, const Constants&, Groups groups) {
    if (groups.begin != 0) return;
    uint32_t slot = 0, tile = 0;
    for (uint32_t e = 0; e < p.experts; ++e) {
        p.offsets.at[e] = slot;
        for (uint32_t chunk = 0; chunk < p.chunks; ++chunk) {
            uint32_t& cell = p.counts.at[uint64_t{chunk} * p.experts + e];
            uint32_t count = cell;
            cell = slot;
            slot += count;
        }
        for (uint32_t first = p.offsets.at[e]; first < slot; first += kTileRows, ++tile) {
            p.tiles.at[2 * tile] = e;
            p.tiles.at[2 * tile + 1] = first;
        }
    }
    p.offsets.at[p.experts] = slot;
    p.tile_count.at[0] = tile;
    writeGroups(p.up_groups, tile * p.up_columns);
    writeGroups(p.down_groups, tile * p.down_columns);
}

}  // namespace cpu
}  // namespace v1
}  // namespace vkmoe
