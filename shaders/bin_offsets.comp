#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/kernel.glsl"
// bin_offsets: step 2 of the stable counting sort: where each expert's slots begin, and the work list of the grouped GEMMs.
//   in/out counts [chunks, experts]   counts in, out the first slot of (chunk, expert)
//   out    offsets [experts+1]; tiles [tile_count, 2] (expert, first slot), experts ascending, at most 32 slots each;
//          tile_count [1]; up_groups, down_groups [3]: sizes of the indirect dispatches (tiles * columns workgroups)
// One workgroup of 64 threads; thread i serves experts i, i+64, ...
KERNEL(BinTokens)

shared uint slot_count[1024];
shared uint first_tile[1024];
shared uint all_slots;

void write_groups(U32 groups, uint count) {
    uint x = min(count, 65535u);
    groups.at[0] = x;
    groups.at[1] = x == 0u ? 0u : (count + x - 1u) / x;
    groups.at[2] = x == 0u ? 0u : 1u;
}

// Exclusive sums over experts, of slots and of tiles.
void scan_experts() {
    uint slots = 0u, tiles = 0u;
    for (uint e = 0u; e < p.experts; ++e) {
        uint count = slot_count[e];
        first_tile[e] = tiles;
        p.offsets.at[e] = slot_count[e] = slots;  // from now on the first slot
        slots += count;
        tiles += (count + kTileRows - 1u) / kTileRows;
    }
    p.offsets.at[p.experts] = all_slots = slots;
    p.tile_count.at[0] = tiles;
    write_groups(p.up_groups, tiles * p.up_columns);
    write_groups(p.down_groups, tiles * p.down_columns);
}

void main() {
    for (uint e = lane_index(); e < p.experts; e += kWorkgroup) {
        uint sum = 0u;
        for (uint c = 0u; c < p.chunks; ++c) {
            uint count = p.counts.at[c * p.experts + e];
            p.counts.at[c * p.experts + e] = sum;
            sum += count;
        }
        slot_count[e] = sum;
    }
    memoryBarrierShared();
    barrier();
    if (lane_index() == 0u) scan_experts();
    memoryBarrierShared();
    barrier();
    for (uint e = lane_index(); e < p.experts; e += kWorkgroup) {
        uint begin = slot_count[e], end = e + 1u < p.experts ? slot_count[e + 1u] : all_slots;
        for (uint c = 0u; c < p.chunks; ++c) p.counts.at[c * p.experts + e] += begin;
        for (uint slot = begin, tile = first_tile[e]; slot < end; slot += kTileRows, ++tile) {
            p.tiles.at[2u * tile] = e;
            p.tiles.at[2u * tile + 1u] = slot;
        }
    }
}
