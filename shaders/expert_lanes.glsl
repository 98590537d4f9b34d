// The GEMM and GEMV for software drivers, on which a load costs far more than a multiply-add, in order R32.
//
// The lanes of a subgroup (c_lanes of them, at least eight, numbered as the threads are) hold consecutive outputs, a thread
// four outputs a subgroup apart (kLanesOutputs a workgroup) and c_tile_rows rows. A chunk is eight columns: lane i loads
// column i of every row, a broadcast brings it to the others; a word of weights serves all columns that it holds.
#extension GL_KHR_shader_subgroup_ballot : require
#include "shaders/each_row.glsl"

const uint kChunk = 8u;

uint row_at[kLanesRows];  // first element of each row in x; rows past the end repeat the last one
vec4 totals[kLanesRows];  // of the thread's four outputs

// The thread's outputs; past the end of the matrix they are not stored.
uvec4 lane_outputs(uint column) {
    uint first = column * kLanesOutputs + lane_index() / c_lanes * c_lanes * 4u + lane_index() % c_lanes;
    return uvec4(first) + uvec4(0u, 1u, 2u, 3u) * uvec4(c_lanes);
}

// Four weights of column j of a chunk, from the words that hold it.
vec4 column_of(uvec4 words, uint j) {
    if (c_weight_format == kF32) return uintBitsToFloat(words);
    if (c_weight_format == kMxfp4) return mxfp4_codes(words >> uvec4(4u * j) & uvec4(15u));
    return halves((j & 1u) == 0u ? words & uvec4(0xffffu) : words >> uvec4(16u));
}

uvec4 load_words(U32 page, uvec4 base, uint step_) {
    uvec4 at = base + uvec4(step_ * kPanel);
    return uvec4(page.at[at.x], page.at[at.y], page.at[at.z], page.at[at.w]);
}

// A word is loaded at its first column.
bool starts_word(uint j) { return c_weight_format == kF32 || (c_weight_format == kMxfp4 ? j == 0u : (j & 1u) == 0u); }

vec4 load_scales(U32 page, uvec4 base, uint k) {
    uvec4 words = load_words(page, base, k / (kScaleGroup * kBlock) * (kScaleGroup * kBlock / 8u + 1u));
    uvec4 bytes = words >> uvec4(k / kBlock % kScaleGroup * 8u) & uvec4(255u);
    return vec4(mxfp4_half_scale(bytes.x), mxfp4_half_scale(bytes.y), mxfp4_half_scale(bytes.z), mxfp4_half_scale(bytes.w));
}

// Past the last column a term is -0 * 1, which changes no sum.
#define LANES_LOAD(i, first) \
    if (i < c_tile_rows) mine[i] = load_x(x, row_at[i], first + lane_index() % kChunk, cols);
#define LANES_X(i, j) vec4(subgroupBroadcast(mine[i], j))
#define LANES_FIRST(i, j) \
    if (i < c_tile_rows) s[i] = k == k0 ? LANES_X(i, j) * w : multiply_add(LANES_X(i, j), w, s[i]);
#define LANES_NEXT(i, j) \
    if (i < c_tile_rows) s[i] = multiply_add(LANES_X(i, j), w, s[i]);
#define LANES_COLUMN(j, EACH)                                                                       \
    {                                                                                               \
        if (starts_word(j)) words = load_words(page, base, word_step(min(k + j, cols - 1u))); \
        vec4 w = column_of(words, j);                                                            \
        if (c_weight_format != kMxfp4 && k + j >= cols) w = vec4(uintBitsToFloat(0x3f800000u));  \
        VKMOE_EACH_ROW(EACH, j)                                                                     \
    }
#define LANES_SCALE(i, j) \
    if (i < c_tile_rows) s[i] = s[i] * scale;
#define LANES_TOTAL(i, j) \
    if (i < c_tile_rows) totals[i] = k0 == 0u ? (biased ? start + s[i] : s[i]) : totals[i] + s[i];

float load_x(F32 x, uint row, uint k, uint cols) {
    float value = x.at[row + min(k, cols - 1u)];
    return k < cols ? value : uintBitsToFloat(0x80000000u);
}

// totals[i] = bias + sum over blocks of (products added in ascending k); without a bias the first block's total starts it.
void lanes_dot(F32 x, U32 page, uvec4 outputs, uint count, uint weight, uint bias, bool biased, uint cols) {
    outputs = min(outputs, uvec4(count - 1u));
    uvec4 base = uvec4(weight) + outputs / uvec4(kPanel) * uvec4(panel_steps(cols) * kPanel) + outputs % uvec4(kPanel);
    vec4 start = vec4(uintBitsToFloat(0u));
    if (biased)
        start = vec4(uintBitsToFloat(page.at[bias + outputs.x]), uintBitsToFloat(page.at[bias + outputs.y]),
                     uintBitsToFloat(page.at[bias + outputs.z]), uintBitsToFloat(page.at[bias + outputs.w]));
    for (uint k0 = 0u; k0 < cols; k0 += kBlock) {
        vec4 s[kLanesRows];
        uint k1 = min(k0 + kBlock, cols);
        for (uint k = k0; k < k1; k += kChunk) {
            float mine[kLanesRows];
            uvec4 words = uvec4(0u);
            VKMOE_EACH_ROW(LANES_LOAD, k)
            LANES_COLUMN(0u, LANES_FIRST)
            LANES_COLUMN(1u, LANES_NEXT)
            LANES_COLUMN(2u, LANES_NEXT)
            LANES_COLUMN(3u, LANES_NEXT)
            LANES_COLUMN(4u, LANES_NEXT)
            LANES_COLUMN(5u, LANES_NEXT)
            LANES_COLUMN(6u, LANES_NEXT)
            LANES_COLUMN(7u, LANES_NEXT)
        }
        if (c_weight_format == kMxfp4) {
            vec4 scale = load_scales(page, base, k0);
            VKMOE_EACH_ROW(LANES_SCALE, 0)
        }
        VKMOE_EACH_ROW(LANES_TOTAL, 0)
    }
}

// One element of a vector whose index is not known when the pipeline is built.
float element_of(vec4 v, uint i) { return i == 0u ? v.x : i == 1u ? v.y : i == 2u ? v.z : v.w; }
uint element_of(uvec4 v, uint i) { return i == 0u ? v.x : i == 1u ? v.y : i == 2u ? v.z : v.w; }

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
