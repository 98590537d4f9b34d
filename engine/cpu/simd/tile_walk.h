// Which rows and panels a range of workgroups stands for, taken together where they use the same weights: a panel is
// then read from memory once for all of them.
#pragma once

#include "engine/cpu/panel.h"
#include "engine/cpu/simd/packed_rows.h"
#include "engine/cpu/simd/panel_tile.h"

namespace vkmoe {
inline namespace v1 {
namespace simd {

// Tiles [first, last) of one expert's consecutive rows, at most kRunTiles; one without rows if its page is not here.
struct TileRun {
    uint64_t first = 0, last = 0;
    TileRows rows;

    // The rows of tiles [from, to), which belong to the run.
    TileRows part(uint64_t from, uint64_t to) const {
        uint32_t begin = rows.first + static_cast<uint32_t>(from - first) * kTileRows;
        return {rows.page, begin, std::min(rows.end, begin + static_cast<uint32_t>(to - from) * kTileRows)};
    }
};

template <class Params>
TileRun findRun(const Params& p, const Constants& c, uint64_t first, uint64_t last) {
    TileRun run{first, first + 1, findTile(p, c, first)};
    for (; run.last < std::min(last, first + kRunTiles); ++run.last) {
        TileRows next = findTile(p, c, run.last);
        if (next.first == next.end || next.page != run.rows.page || next.first != run.rows.end) break;
        run.rows.end = next.end;
    }
    return run;
}

// Groups of the grouped GEMM: tile-major, `columns` of kTilePanels panels a tile. row_at(row) is a row of x, [cols].
// body(rows, x of these rows, first panel).
template <class Params, class RowAt, class Body>
void eachTile(const Params& p, const Constants& c, Groups groups, uint32_t columns, uint32_t cols, const RowAt& row_at,
              const Body& body) {
    PackedRows packed;
    uint64_t last = std::min((groups.end + columns - 1) / columns, tileCount(p, c));
    for (uint64_t tile = groups.begin / columns; tile < last;) {
        TileRun run = findRun(p, c, tile, last);
        tile = run.last;
        if (run.rows.first == run.rows.end) continue;
        RowsView x =
            packed.pack(run.rows.end - run.rows.first, cols, [&](uint32_t i) { return row_at(run.rows.first + i); });
        for (uint32_t column = 0; column < columns; ++column) {  // the range may begin and end inside a tile's columns
            uint64_t from = run.first * columns + column < groups.begin ? run.first + 1 : run.first;
            uint64_t to = (run.last - 1) * columns + column >= groups.end ? run.last - 1 : run.last;
            if (from >= to) continue;
            TileRows rows = run.part(from, to);
            body(rows, x.from(rows.first - run.rows.first), column * kTilePanels);
        }
    }
}

// Groups of the GEMV form: row-major, `panels` a row; whole rows of one expert are taken together.
// body(rows, x of these rows, first panel, panels): at most kTilePanels panels.
template <class Params, class RowAt, class Body>
void eachRow(const Params& p, const Constants& c, Groups groups, uint32_t panels, uint32_t cols, const RowAt& row_at,
             const Body& body) {
    PackedRows packed;
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
        RowsView x = packed.pack(rows.end - row, cols, [&](uint32_t i) { return row_at(row + i); });
        for (uint32_t first = panel; first < stop; first += kTilePanels)
            body(rows, x, first, std::min(uint32_t{kTilePanels}, stop - first));
    }
}

}  // namespace simd
}  // namespace v1
}  // namespace vkmoe
