// A tile of a grouped GEMM: 32 rows x 64 outputs a workgroup, 8 rows x 4 outputs a thread.
//
// Thread = (octet of rows, four neighbouring outputs). A vec4 of sums holds the four outputs of one row; every operation
// on it is componentwise.

const uint kTileOutputs = kPanel * kTilePanels;
const uint kXStride = kTileRows / 4u + 1u;  // of a column, in vec4: padded, since neighbouring threads write columns

shared vec4 tile_x[kBlock * kXStride];
shared uint tile_row_at[kTileRows];  // first element of each row in x; rows past the end repeat the last one

// Where a workgroup's tile lies. (It holds no address: SwiftShader's compiler crashes on addresses inside structs.)
struct Tile {
    uint page;       // number in the page table
    uint first_row;  // slot or token of row 0
    uint rows;       // 1..32
    uint output_;    // first of 64
};

// Tile of workgroup `group` of the dense list. False: nothing to do.
bool find_dense_tile(uint dense_rows, uint dense_page, uint outputs, out Tile tile) {
    uint columns = (outputs + kTileOutputs - 1u) / kTileOutputs;
    tile.page = dense_page;
    tile.first_row = group_index() / columns * kTileRows;
    tile.output_ = group_index() % columns * kTileOutputs;
    if (tile.first_row >= dense_rows) return false;
    tile.rows = min(kTileRows, dense_rows - tile.first_row);
    return true;
}

// The same of the compact list, unless c_dense; nothing to do for an expert whose page is not here.
bool find_tile(U32 offsets, U32 tiles, U32 tile_count, Pages pages, uint dense_rows, uint dense_page, uint outputs, out Tile tile) {
    if (c_dense != 0u) return find_dense_tile(dense_rows, dense_page, outputs, tile);
    uint columns = (outputs + kTileOutputs - 1u) / kTileOutputs, index = group_index() / columns;
    if (index >= tile_count.at[0]) return false;
    tile.page = tiles.at[2u * index];
    tile.first_row = tiles.at[2u * index + 1u];
    tile.output_ = group_index() % columns * kTileOutputs;
    uint end = offsets.at[tile.page + 1u];
    if (tile.first_row >= end || !is_here(pages, tile.page)) return false;
    tile.rows = min(kTileRows, end - tile.first_row);
    return true;
}

uint octet() { return lane_index() / 16u; }               // the thread's rows are 8*octet() ...
uint first_output() { return lane_index() % 16u * 4u; }   // ... and its outputs of the tile begin here

#define TILE_ROWS(DO, a, b) DO(0, a.x) DO(1, a.y) DO(2, a.z) DO(3, a.w) DO(4, b.x) DO(5, b.y) DO(6, b.z) DO(7, b.w)
