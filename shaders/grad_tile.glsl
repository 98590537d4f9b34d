// The tile of the gradients' GEMMs, in order R32: blocks of 32 terms in shared memory, 13.3 KiB.
//
// A sum that starts at -0 starts at its first term, bit for bit. Past the last term of a block x is -0 and w is 1, which
// changes no sum: so terms may be added in pairs.
#include "shaders/terms.glsl"
#include "shaders/tile.glsl"

const uint kWeightStride = kTileOutputs / 4u + 1u;  // of a term, in vec4: padded, since neighbouring threads write terms

shared vec4 tile_w[kBlock * kWeightStride];

vec4 sums[8];    // of the block, the thread's eight rows
vec4 totals[8];  // of the blocks before

#define GRAD_ROW(i, x) s[i] = multiply_add(vec4(x), w, s[i]);
#define GRAD_TERM(k)                                      \
    {                                                     \
        vec4 w = tile_w[(k) * kWeightStride + q], a = tile_x[(k) * kXStride + at], b = tile_x[(k) * kXStride + at + 1u]; \
        TILE_ROWS(GRAD_ROW, a, b)                         \
    }

void clear_sums() {
    [[unroll]] for (uint i = 0u; i < 8u; ++i) sums[i] = vec4(nothing());
}

void clear_totals() {
    [[unroll]] for (uint i = 0u; i < 8u; ++i) totals[i] = vec4(nothing());
}

// Adds the first `count` of the staged terms to the sums: two at a time, for SwiftShader compiles longer stretches without a
// branch forever; eight a trip, for lavapipe stops a shader after 65,535 trips of all its loops.
void add_terms(uint count) {
    uint at = 2u * octet(), q = first_output() / 4u;
    vec4 s[8] = sums;
    for (uint k = 0u; k < kBlock; k += 8u) {
        if (k + 0u < count) {
            GRAD_TERM(k + 0u)
            GRAD_TERM(k + 1u)
        }
        if (k + 2u < count) {
            GRAD_TERM(k + 2u)
            GRAD_TERM(k + 3u)
        }
        if (k + 4u < count) {
            GRAD_TERM(k + 4u)
            GRAD_TERM(k + 5u)
        }
        if (k + 6u < count) {
            GRAD_TERM(k + 6u)
            GRAD_TERM(k + 7u)
        }
    }
    sums = s;
}

// A block is finished.
void add_sums() {
    [[unroll]] for (uint i = 0u; i < 8u; ++i) totals[i] = totals[i] + sums[i];
    clear_sums();
}
