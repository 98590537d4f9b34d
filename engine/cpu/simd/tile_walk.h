// Which rows and panels a range of workgroups stands for, taken together where they use the same weights: a panel is
// then read from memory once for all of them.
#pragma once

#include "engine/cpu/panel.h"
#include "engine/cpu/simd/packed_rows.h"
#include "engine/cpu/simd/panel_tile.h"

namespace vkmoe {
inline namespace v1 {
namespace simd {

// Tiles [first, last) of one expert's consecutive rows, at most kRunTiles; no rows if its page is not here.
struct TileRun {
    uint64_t first = 0, last = 0;
    TileRows rows;

    uint64_t height() const { return last - first; }

    // The rows of `count` tiles from the run's tile `begin` on.
    TileRows part(uint64_t begin, uint64_t count) const {
        uint32_t row = rows.first + static_cast<uint32_t>(begin) * kTileRows;
        return {rows.page, row, std::min(rows.end, row + static_cast<uint32_t>(count) * kTileRows)};
    }
};

// The run that tile `index` belongs to: an expert's tiles, all of its rows in order as bin_offsets lists them, are
// shared out evenly, whoever asks.
template <class Params>
TileRun findRun(const Params& p, const Constants& c, uint64_t index) {
    uint64_t before = index, tiles = tileCount(p, c);  // of the expert
    uint32_t end = p.rows;
    if (c.dense == 0) {
        uint32_t expert = p.tiles.at[2 * index], begin = p.offsets.at[expert];
        end = p.offsets.at[expert + 1];
        before = (p.tiles.at[2 * index + 1] - begin) / kTileRows;
        tiles = ceilDiv(end - begin, kTileRows);
    }
    uint64_t runs = (tiles + kRunTiles - 1) / kRunTiles, run = ((before + 1) * runs - 1) / tiles;
    TileRun found{index - before + tiles * run / runs, index - before + tiles * (run + 1) / runs, {}};
    found.rows = findTile(p, c, found.first);
    if (found.rows.page)
        found.rows.end = std::min(end, found.rows.first + static_cast<uint32_t>(found.height()) * kTileRows);
    return found;
}

// Groups of the grouped GEMM, `columns` of kTilePanels panels a tile. Within a run they are counted column by column,
// not tile by tile as in the shader: but for the columns that a range of groups cuts, a panel is used by all of the
// run's rows while it is in the cache. row_at(row) is a row of x, [cols]. body(rows, x of these rows, first panel).
template <class Params, class RowAt, class Body>
void eachTile(const Params& p, const Constants& c, Groups groups, uint32_t columns, uint32_t cols, const RowAt& row_at,
              const Body& body) {
    const uint64_t end = std::min(groups.end, tileCount(p, c) * columns);
    for (uint64_t group = groups.begin; group < end;) {
        const TileRun run = findRun(p, c, group / columns);
        uint64_t at = group - run.first * columns, stop = std::min(end, run.last * columns) - run.first * columns;
        group = run.first * columns + stop;
        if (run.rows.first == run.rows.end) continue;
        const bool one_column = at / run.height() == (stop - 1) / run.height();
        const TileRows used = one_column ? run.part(at % run.height(), stop - at) : run.rows;
        RowsView x = packedRows(used.end - used.first, cols, [&](uint32_t i) { return row_at(used.first + i); });
        while (at < stop) {
            uint64_t begin = at % run.height(), count = std::min(run.height() - begin, stop - at);
            TileRows rows = run.part(begin, count);
            body(rows, x.from(rows.first - used.first), static_cast<uint32_t>(at / run.height()) * kTilePanels);
            at += count;
        }
    }
}

// Groups of the GEMV form: row-major, `panels` a row; whole rows of one expert are taken together.
// body(rows, x of these rows, first panel, panels): at most kTilePanels panels, of a single row `row_panels`.
template <class Params, class RowAt, class Body>
void eachRow(const Params& p, const Constants& c, Groups groups, uint32_t panels, uint32_t row_panels, uint32_t cols,
             const RowAt& row_at, const Body& body) {
    uint64_t end = std::min<uint64_t>(groups.end, uint64_t{gemvRows(p, c)} * panels);
    for (uint64_t group = groups.begin; group < end;) {
        uint32_t row = static_cast<uint32_t>(group / panels), panel = static_cast<uint32_t>(group % panels);
        TileRows rows{pageOfSlot(p, c, row), row, row + 1};
        uint32_t stop = static_cast<uint32_t>(std::min<uint64_t>(panels, panel + (end - group)));
        while (panel == 0 && rows.end - row < kRunRows && uint64_t{rows.end + 1} * panels <= end &&
               pageOfSlot(p, c, rows.end) == rows.page)
            ++rows.end;
        group += rows.end - row > 1 ? uint64_t{rows.end - row} * panels : stop - panel;
        if (!rows.page) continue;
        RowsView x = packedRows(rows.end - row, cols, [&](uint32_t i) { return row_at(row + i); });
        const uint32_t most = rows.end - row == 1 ? row_panels : kTilePanels;
        for (uint32_t first = panel; first < stop; first += most) body(rows, x, first, std::min(most, stop - first));
    }
}

}  // namespace simd
}  // namespace v1
}  // namespace vkmoe
