// The tile of the forward's grouped GEMM, in order R32.
//
// A block of 32 columns at a time is decoded into shared memory, 12.6 KiB: x as [column][row], weights as
// [column][output], each read as vec4.
#include "shaders/tile.glsl"

shared vec4 tile_w[kBlock * kTileOutputs / 4u];

// Thread = (column, every second row): neighbours read neighbouring columns.
void stage_x(F32 x, uint k0, uint count) {
    uint k = lane_index() % kBlock;
    if (k >= count) return;
    for (uint row = lane_index() / kBlock; row < kTileRows; row += kWorkgroup / kBlock)
        tile_x[k * kXStride + row / 4u][row % 4u] = x.at[tile_row_at[row] + k0 + k];
}

// Thread = output: its column of the panel that holds it, eight columns at a time.
void stage_weights(U32 page, uint base, uint lane, uint k0, uint count) {
    uint at = lane_index();
    for (uint first = 0u; first < count; first += 8u) {
        float w[8];
        load_eight(page, base, lane, k0 + first, k0 + count, w);
        [[unroll]] for (uint j = 0u; j < 8u; ++j) tile_w[(first + j) * (kTileOutputs / 4u) + at / 4u][at % 4u] = w[j];
    }
}

// Scale or bias of the thread's four outputs.
vec4 four_scales(U32 page, uint base, uint lane, uint k0) {
    return vec4(scale_at(page, base, k0, lane), scale_at(page, base, k0, lane + 1u), scale_at(page, base, k0, lane + 2u),
                scale_at(page, base, k0, lane + 3u));
}

vec4 four_biases(U32 page, uint bias, uint output_, uint outputs) {
    uvec4 at = uvec4(bias) + min(uvec4(output_, output_ + 1u, output_ + 2u, output_ + 3u), uvec4(outputs - 1u));
    return vec4(uintBitsToFloat(page.at[at.x]), uintBitsToFloat(page.at[at.y]), uintBitsToFloat(page.at[at.z]),
                uintBitsToFloat(page.at[at.w]));
}

// Word offset of the panel that holds an output; outputs past the last panel read it (their results are not stored).
uint panel_base(uint weight, uint output_, uint outputs, uint cols) {
    return weight + min(output_, outputs - 1u) / kPanel * panel_steps(cols) * kPanel;
}

#define TILE_FIRST(i, x) s[i] = vec4(x) * w;
#define TILE_NEXT(i, x) s[i] = multiply_add(vec4(x), w, s[i]);

// totals[i] = bias + sum over blocks of (products added in ascending k); without a bias the first block's total starts it.
// Every thread of the workgroup must call it, with tile_row_at set.
void tile_dot(F32 x, U32 page, Tile tile, uint weight, uint bias, bool biased, uint outputs, uint cols,
              out vec4 totals[8]) {
    uint staged = panel_base(weight, tile.output_ + lane_index(), outputs, cols), at = 2u * octet();
    uint output_ = tile.output_ + first_output(), base = panel_base(weight, output_, outputs, cols), q = first_output() / 4u;
    for (uint k0 = 0u; k0 < cols; k0 += kBlock) {
        uint count = min(kBlock, cols - k0);
        barrier();
        stage_x(x, k0, count);
        stage_weights(page, staged, lane_index() % kPanel, k0, count);
        memoryBarrierShared();
        barrier();
        vec4 s[8];
        vec4 w = tile_w[q], a = tile_x[at], b = tile_x[at + 1u];
        TILE_ROWS(TILE_FIRST, a, b)
        for (uint k = 1u; k < count; ++k) {
            w = tile_w[k * (kTileOutputs / 4u) + q];
            a = tile_x[k * kXStride + at];
            b = tile_x[k * kXStride + at + 1u];
            TILE_ROWS(TILE_NEXT, a, b)
        }
        if (c_weight_format == kMxfp4) {
            vec4 scale = four_scales(page, base, output_ % kPanel, k0);
            [[unroll]] for (uint i = 0u; i < 8u; ++i) s[i] = s[i] * scale;
        }
        if (k0 != 0u) {
            [[unroll]] for (uint i = 0u; i < 8u; ++i) totals[i] = totals[i] + s[i];
        } else if (biased) {
            vec4 start = four_biases(page, bias, output_, outputs);
            [[unroll]] for (uint i = 0u; i < 8u; ++i) totals[i] = start + s[i];
        } else {
            [[unroll]] for (uint i = 0u; i < 8u; ++i) totals[i] = s[i];
        }
    }
}

// Hands a thread's rows to the others: its four outputs of rows [8*octet, +8) become column first_output() of tile_w, rows
// from `row` on. Every thread of the workgroup must call it once those before have read tile_w.
void put_rows(uint row, vec4 values[8]) {
    [[unroll]] for (uint i = 0u; i < 8u; ++i) tile_w[(row + i) * (kTileOutputs / 4u) + first_output() / 4u] = values[i];
}

// Row `row` of those, the output of this thread: thread = output, so that neighbours store to neighbouring places, and the
// code that finishes a value is there once.
float put_value(uint row) { return tile_w[row * (kTileOutputs / 4u) + lane_index() / 4u][lane_index() % 4u]; }
