// Sums over the terms of rows for software drivers, on which a load costs far more than a multiply-add, in order R32.
//
// The lanes of a subgroup (c_lanes of them, at least eight, numbered as the threads are) hold consecutive outputs, a thread
// four (kLanesOutputs a workgroup) of c_tile_rows rows. A chunk is sixteen terms: lane i loads terms 2i and 2i+1 of every row,
// from_lane brings them to the others. Loads are of 64 bits, for these drivers follow an address lane by lane and word by
// word, whatever a word's width. What includes this tells how weights are read.
//
// Needs 64-bit integers, shuffles and broadcasts in a subgroup, also of them, subgroups of eight and more; an even number of
// terms in a row, and x at a multiple of eight bytes. usesLanes (engine/moe/expert_forms.h) asks for all of it.
#include "shaders/each_row.glsl"

const uint kChunk = 16u;

uint row_at[kLanesRows];  // first element of each row in x; rows past the end repeat the last one
vec4 sums[kLanesRows];    // of a block, the thread's four outputs
vec4 totals[kLanesRows];
vec4 weights[8];          // of eight terms

void load_weights(U64 page, uvec4 base, uint k, uint terms);  // of terms k .. k+7; past the last one any
void scale_sums(U32 page, uvec4 base, uint k0);               // once the block that began at term k0 is summed

// Terms k and k+1 of a row. Past the last term x is -0 and the weight 1, which changes no sum.
uint64_t load_terms(U64 x, uint row, uint k, uint terms) {
    uint64_t both = x.at[(row + min(k, terms - 2u)) / 2u];
    return k < terms ? both : packed(vec2(nothing()));
}

#define LANES_CLEAR(i, j) \
    if (i < c_tile_rows) sums[i] = vec4(nothing());
#define LANES_LOAD(i, first) \
    if (i < c_tile_rows) mine[i] = load_terms(pairs, row_at[i], first + lane_index() % 8u * 2u, terms);
#define LANES_TWO(i, at, j)                                               \
    {                                                                     \
        vec2 two = from_lane(mine[i], (at + j) / 2u);                     \
        sum = multiply_add(vec4(two.x), weights[j], sum);                 \
        sum = multiply_add(vec4(two.y), weights[j + 1u], sum);            \
    }
#define LANES_ROW(i, at)        \
    if (i < c_tile_rows) {      \
        vec4 sum = sums[i];     \
        LANES_TWO(i, at, 0u)    \
        LANES_TWO(i, at, 2u)    \
        LANES_TWO(i, at, 4u)    \
        LANES_TWO(i, at, 6u)    \
        sums[i] = sum;          \
    }
#define LANES_LAST(j, at) \
    if (k + at + j >= terms) weights[j] = vec4(one());
#define LANES_EIGHT(at)                           \
    load_weights(U64(page), base, k + at, terms); \
    VKMOE_EIGHT(LANES_LAST, at)                   \
    VKMOE_EACH_ROW(LANES_ROW, at)
#define LANES_TOTAL(i, j) \
    if (i < c_tile_rows) totals[i] = k0 == 0u ? (biased ? start + sums[i] : sums[i]) : totals[i] + sums[i];

// totals[i] = start + sum over blocks of (products added in ascending k); without a bias the first block's total starts it.
void lanes_sum(F32 x, U32 page, uvec4 base, uint terms, bool biased, vec4 start) {
    U64 pairs = U64(x);
    for (uint k0 = 0u; k0 < terms; k0 += kBlock) {
        VKMOE_EACH_ROW(LANES_CLEAR, 0)
        for (uint k = k0; k < min(k0 + kBlock, terms); k += kChunk) {
            uint64_t mine[kLanesRows];
            VKMOE_EACH_ROW(LANES_LOAD, k)
            LANES_EIGHT(0u)
            LANES_EIGHT(8u)
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
