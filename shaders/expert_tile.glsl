// The register tile of the grouped GEMM: 8 rows x 4 outputs a thread, in order R32.
//
// A workgroup computes 32 rows x 64 outputs: thread = (quad of 8 rows, lane of the panel), its four outputs lie in four
// consecutive panels. A vec4 holds the four outputs of one row; every operation on it is componentwise.

// Where a thread's tile lies. (It holds no address: SwiftShader's compiler crashes on addresses inside structs.)
struct Tile {
    uint page;       // number in the page table
    uint rows;       // of this thread, 1..8
    uint first_row;  // slot or token of row 0
    uint panel;      // first of four
    uint lane;
};

vec4 load_weights(U32 page, uvec4 base, uint k, uint lane) {
    return vec4(weight_at(page, base.x, k, lane), weight_at(page, base.y, k, lane), weight_at(page, base.z, k, lane),
                weight_at(page, base.w, k, lane));
}

// Word offsets of four consecutive panels; panels past the last repeat it (their results are not stored).
uvec4 panel_bases(uint weight, uint panel, uint outputs, uint cols) {
    uint last = (outputs + kPanel - 1u) / kPanel - 1u, words = panel_steps(cols) * kPanel;
    uvec4 panels = min(uvec4(panel, panel + 1u, panel + 2u, panel + 3u), uvec4(last));
    return uvec4(weight) + panels * uvec4(words);
}

vec4 load_bias(U32 page, uint bias, uint panel, uint lane, uint outputs) {
    uvec4 at = min(uvec4(panel, panel + 1u, panel + 2u, panel + 3u) * uvec4(kPanel) + uvec4(lane), uvec4(outputs - 1u));
    return vec4(uintBitsToFloat(page.at[bias + at.x]), uintBitsToFloat(page.at[bias + at.y]),
                uintBitsToFloat(page.at[bias + at.z]), uintBitsToFloat(page.at[bias + at.w]));
}

// row_at[i] is the first element of row i in x (rows past the end repeat the last one).
// totals[i] = bias + sum over blocks of (products added in ascending k); without a bias the first block's total starts it.
void tile_dot(F32 x, uint row_at[8], U32 page, Tile tile, uint weight, uint bias, uint bias_bit, uint outputs,
              uint cols, out vec4 totals[8]) {
    uvec4 base = panel_bases(weight, tile.panel, outputs, cols);
    for (uint k0 = 0u; k0 < cols; k0 += kBlock) {
        vec4 s[8];
        vec4 w = load_weights(page, base, k0, tile.lane);
        [[unroll]] for (uint i = 0u; i < 8u; ++i) s[i] = vec4(x.at[row_at[i] + k0]) * w;
        uint k1 = min(k0 + kBlock, cols);
        for (uint k = k0 + 1u; k < k1; ++k) {
            w = load_weights(page, base, k, tile.lane);
            [[unroll]] for (uint i = 0u; i < 8u; ++i) s[i] = multiply_add(vec4(x.at[row_at[i] + k]), w, s[i]);
        }
        if (c_weight_format == kMxfp4) {
            vec4 scale = vec4(scale_at(page, base.x, k0, tile.lane), scale_at(page, base.y, k0, tile.lane),
                              scale_at(page, base.z, k0, tile.lane), scale_at(page, base.w, k0, tile.lane));
            [[unroll]] for (uint i = 0u; i < 8u; ++i) s[i] = s[i] * scale;
        }
        if (k0 != 0u) {
            [[unroll]] for (uint i = 0u; i < 8u; ++i) totals[i] = totals[i] + s[i];
        } else if ((c_bias & bias_bit) != 0u) {
            vec4 b = load_bias(page, bias, tile.panel, tile.lane, outputs);
            [[unroll]] for (uint i = 0u; i < 8u; ++i) totals[i] = b + s[i];
        } else {
            [[unroll]] for (uint i = 0u; i < 8u; ++i) totals[i] = s[i];
        }
    }
}

// One thread's share of workgroup `group` of the compact tile list, or of the dense one. False: nothing to do.
bool find_tile(U32 offsets, U32 tiles, U32 tile_count, uint dense_rows, uint dense_page, uint columns,
               out Tile tile) {
    uint group = group_index(), index = group / columns, quad = lane_index() / kPanel;
    uint expert = dense_page, first = index * kTileRows, end = dense_rows;
    if (c_dense == 0u) {
        if (index >= tile_count.at[0]) return false;
        expert = tiles.at[2u * index];
        first = tiles.at[2u * index + 1u];
        end = min(offsets.at[expert + 1u], first + kTileRows);
    }
    tile.first_row = first + quad * 8u;
    if (tile.first_row >= end) return false;
    tile.rows = min(8u, end - tile.first_row);
    tile.page = expert;
    tile.panel = group % columns * kTilePanels;
    tile.lane = lane_index() % kPanel;
    return true;
}
