// Rows times packed weights the other way round: sums over the rows of a matrix [rows, cols] in panels (f32 or bf16), its
// columns are the outputs.
#include "shaders/grad_tile.glsl"

// Terms k0 .. k0+31 of every row. Thread = (term, every second row): neighbours read neighbouring terms.
void stage_rows(F32 x, uint k0, uint count) {
    uint k = lane_index() % kBlock;
    [[unroll]] for (uint j = 0u; j < kTileRows; j += 2u) {
        uint row = lane_index() / kBlock + j;
        float value = x.at[tile_row_at[row] + k0 + min(k, count - 1u)];
        tile_x[k * kXStride + row / 4u][row % 4u] = k < count ? value : nothing();
    }
}

// One word of the panel that holds rows k0 + 16*half_ ..: an f32 weight, or those of two columns.
void stage_word(U32 page, uint panel, uint output_, uint cols, uint k, uint at, bool inside) {
    const uint columns = c_weight_format == kF32 ? 1u : 2u;
    uint word = page.at[panel + min(output_, cols - 1u) / columns * kPanel + k % kPanel];
    float low = uintBitsToFloat(columns == 1u ? word : word << 16);
    tile_w[k * kWeightStride + at / 4u][at % 4u] = inside ? low : one();
    if (columns == 2u) tile_w[k * kWeightStride + at / 4u][at % 4u + 1u] = inside ? uintBitsToFloat(word & 0xffff0000u) : one();
}

// Rows k0 .. k0+31 of the tile's columns. Thread = (row of a panel, every fourth word): sixteen neighbours read a row of words.
// Unrolled: rows may be a vocabulary, and lavapipe counts the trips of all loops together (see add_terms).
void stage_panels(U32 page, uint weight, uint output_, uint cols, uint k0, uint count) {
    const uint columns = c_weight_format == kF32 ? 1u : 2u;
    [[unroll]] for (uint half_ = 0u; half_ < 2u; ++half_) {
        uint k = half_ * kPanel + lane_index() % kPanel;
        uint panel = weight + (k0 + min(half_ * kPanel, (count - 1u) / kPanel * kPanel)) / kPanel * panel_steps(cols) * kPanel;
        [[unroll]] for (uint j = 0u; j < kTileOutputs; j += 4u * columns) {
            uint at = lane_index() / kPanel * columns + j;
            stage_word(page, panel, output_ + at, cols, k, at, k < count);
        }
    }
}

// totals = sum over the matrix's rows k of x[row, k] * weight[k, output]. Every thread of the workgroup must call it, with
// tile_row_at set.
void panels_dot(F32 x, U32 page, Tile tile, uint weight, uint rows, uint cols) {
    clear_totals();
    clear_sums();
    for (uint k0 = 0u; k0 < rows; k0 += kBlock) {
        uint count = min(kBlock, rows - k0);
        barrier();
        stage_rows(x, k0, count);
        stage_panels(page, weight, tile.output_, cols, k0, count);
        memoryBarrierShared();
        barrier();
        add_terms(count);
        add_sums();
    }
}

// First element of every row of x in shared memory; the barrier is panels_dot's.
void place_rows(Tile tile, uint cols) {
    if (lane_index() < kTileRows)
        tile_row_at[lane_index()] = (tile.first_row + min(lane_index(), tile.rows - 1u)) * cols;
    memoryBarrierShared();
}

void store_component(F32 to, U32 status, Tile tile, uint cols, uint component) {
    uint output_ = tile.output_ + first_output() + component;
    if (output_ >= cols) return;
    [[unroll]] for (uint i = 0u; i < 8u; ++i) {
        uint row = octet() * 8u + i, at = (tile.first_row + row) * cols + output_;
        if (row < tile.rows) to.at[at] = state_rule(checked(totals[i][component], status, at));
    }
}

void store_totals(F32 to, U32 status, Tile tile, uint cols) {
    store_component(to, status, tile, cols, 0u);
    store_component(to, status, tile, cols, 1u);
    store_component(to, status, tile, cols, 2u);
    store_component(to, status, tile, cols, 3u);
}
