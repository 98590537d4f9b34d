// The tile of the gradients' GEMMs, in order R32: blocks of 32 terms in shared memory, 13.3 KiB.
//
// A block is always 32 terms long: past the last term of a sum x is -0 and w is 1, which changes no sum, and a sum that
// starts at -0 starts at its first term. So every loop has a fixed length and a sum of many thousand terms few trips.
#include "shaders/tile.glsl"

const uint kWeightStride = kTileOutputs / 4u + 1u;  // of a term, in vec4: padded, since neighbouring threads write terms

shared vec4 tile_w[kBlock * kWeightStride];

vec4 sums[8];    // of the block, the thread's eight rows
vec4 totals[8];  // of the blocks before

float nothing() { return uintBitsToFloat(0x80000000u); }  // -0: added to a sum it changes nothing
float one() { return uintBitsToFloat(0x3f800000u); }

// multiply_add of panel.glsl.
vec4 term(vec4 x, vec4 w, vec4 s) { return c_fused != 0u ? fma(x, w, s) : s + x * w; }

#define GRAD_ROW(i, x) sums[i] = term(vec4(x), w, sums[i]);
#define GRAD_TERM(j)                                      \
    {                                                     \
        vec4 w = tile_w[(k + j) * kWeightStride + q];     \
        vec4 a = tile_x[(k + j) * kXStride + at], b = tile_x[(k + j) * kXStride + at + 1u]; \
        TILE_ROWS(GRAD_ROW, a, b)                         \
    }

void clear_sums() {
    [[unroll]] for (uint i = 0u; i < 8u; ++i) sums[i] = vec4(nothing());
}

void clear_totals() {
    [[unroll]] for (uint i = 0u; i < 8u; ++i) totals[i] = vec4(nothing());
}

// Adds the 32 staged terms to the sums.
void add_terms() {
    uint at = 2u * octet(), q = first_output() / 4u;
    for (uint k = 0u; k < kBlock; k += 4u) {
        GRAD_TERM(0u)
        GRAD_TERM(1u)
        GRAD_TERM(2u)
        GRAD_TERM(3u)
    }
}

// A block is finished.
void add_sums() {
    [[unroll]] for (uint i = 0u; i < 8u; ++i) totals[i] = totals[i] + sums[i];
    clear_sums();
}
