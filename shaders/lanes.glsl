// Sums over the terms of rows for software drivers, on which a load costs far more than a multiply-add, in order R32.
//
// The lanes of a subgroup (c_lanes of them, at least eight, numbered as the threads are) hold consecutive outputs, a thread
// four (kLanesOutputs a workgroup) of c_tile_rows rows. A chunk is eight terms: lane i loads term i of every row, a broadcast
// brings it to the others. What includes this tells how weights are read.
#extension GL_KHR_shader_subgroup_ballot : require
#include "shaders/each_row.glsl"

const uint kChunk = 8u;

uint row_at[kLanesRows];  // first element of each row in x; rows past the end repeat the last one
vec4 sums[kLanesRows];    // of a block, the thread's four outputs
vec4 totals[kLanesRows];

uint word_of(uint k);                         // of term k, counted from the base of an output
bool starts_word(uint j);                     // whether term j of a chunk is the first in its words
uvec4 load_words(U32 page, uvec4 at);         // those of the thread's four outputs
vec4 weights_of(uvec4 words, uint j);         // of term j of a chunk
void scale_sums(U32 page, uvec4 base, uint k0);  // once the block that began at term k0 is summed

// Past the last term x is -0 and the weight 1, which changes no sum.
float load_x(F32 x, uint row, uint k, uint terms) {
    float value = x.at[row + min(k, terms - 1u)];
    return k < terms ? value : nothing();
}

#define LANES_LOAD(i, first) \
    if (i < c_tile_rows) mine[i] = load_x(x, row_at[i], first + lane_index() % kChunk, terms);
#define LANES_X(i, j) vec4(subgroupBroadcast(mine[i], j))
#define LANES_FIRST(i, j) \
    if (i < c_tile_rows) sums[i] = k == k0 ? LANES_X(i, j) * w : multiply_add(LANES_X(i, j), w, sums[i]);
#define LANES_NEXT(i, j) \
    if (i < c_tile_rows) sums[i] = multiply_add(LANES_X(i, j), w, sums[i]);
#define LANES_TERM(j, EACH)                                                                            \
    {                                                                                                  \
        if (starts_word(j)) words = load_words(page, base + uvec4(word_of(min(k + j, terms - 1u)))); \
        vec4 w = weights_of(words, j);                                                                 \
        if (c_weight_format != kMxfp4 && k + j >= terms) w = vec4(one());       \
        VKMOE_EACH_ROW(EACH, j)                                                                        \
    }
#define LANES_TOTAL(i, j) \
    if (i < c_tile_rows) totals[i] = k0 == 0u ? (biased ? start + sums[i] : sums[i]) : totals[i] + sums[i];

// totals[i] = start + sum over blocks of (products added in ascending k); without a bias the first block's total starts it.
void lanes_sum(F32 x, U32 page, uvec4 base, uint terms, bool biased, vec4 start) {
    for (uint k0 = 0u; k0 < terms; k0 += kBlock) {
        uint k1 = min(k0 + kBlock, terms);
        for (uint k = k0; k < k1; k += kChunk) {
            float mine[kLanesRows];
            uvec4 words = uvec4(0u);
            VKMOE_EACH_ROW(LANES_LOAD, k)
            LANES_TERM(0u, LANES_FIRST)
            LANES_TERM(1u, LANES_NEXT)
            LANES_TERM(2u, LANES_NEXT)
            LANES_TERM(3u, LANES_NEXT)
            LANES_TERM(4u, LANES_NEXT)
            LANES_TERM(5u, LANES_NEXT)
            LANES_TERM(6u, LANES_NEXT)
            LANES_TERM(7u, LANES_NEXT)
        }
        scale_sums(page, base, k0);
        VKMOE_EACH_ROW(LANES_TOTAL, 0)
    }
}

#define PLACE_ROW(i, j) \
    if (i < c_tile_rows) row_at[i] = min(row + i, end - 1u) * terms;

// Rows row .. end-1 of x are the sums' own.
void place_rows(uint row, uint end, uint terms) { VKMOE_EACH_ROW(PLACE_ROW, 0) }

// What belongs to the thread of a row of `count` outputs.
void store_row(F32 to, U32 status, uint row, uvec4 outputs, vec4 values, uint count) {
    for (uint i = 0u; i < 4u; ++i) {
        uint output_ = element_of(outputs, i), at = row * count + output_;
        if (output_ < count) to.at[at] = state_rule(checked(element_of(values, i), status, at));
    }
}

// The page and rows [first, end) of tile `index` of the compact list, or of the dense one. False: nothing to do, as for an
// expert whose page is not here.
bool find_rows(U32 offsets, U32 tiles, U32 tile_count, Pages pages, uint dense_rows, uint dense_page, uint index,
               out uint page, out uint first, out uint end) {
    page = dense_page;
    first = index * kTileRows;
    end = min(dense_rows, first + kTileRows);
    if (c_dense != 0u) return first < dense_rows;
    if (index >= tile_count.at[0]) return false;
    page = tiles.at[2u * index];
    first = tiles.at[2u * index + 1u];
    end = min(offsets.at[page + 1u], first + kTileRows);
    return is_here(pages, page);
}
