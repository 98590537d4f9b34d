// The forward's GEMM and GEMV for software drivers: a word of weights serves all columns that it holds.
#include "shaders/lanes.glsl"

// The thread's outputs; past the end of the matrix they are not stored.
uvec4 lane_outputs(uint column) { return lanes_apart(column); }

uint word_of(uint k) { return word_step(k) * kPanel; }

bool starts_word(uint j) { return c_weight_format == kF32 || (c_weight_format == kMxfp4 ? j == 0u : (j & 1u) == 0u); }

uvec4 load_words(U32 page, uvec4 at) { return uvec4(page.at[at.x], page.at[at.y], page.at[at.z], page.at[at.w]); }

vec4 weights_of(uvec4 words, uint j) {
    if (c_weight_format == kF32) return uintBitsToFloat(words);
    if (c_weight_format == kMxfp4) return mxfp4_codes(words >> uvec4(4u * j) & uvec4(15u));
    return halves((j & 1u) == 0u ? words & uvec4(0xffffu) : words >> uvec4(16u));
}

vec4 load_scales(U32 page, uvec4 base, uint k) {
    const uint group = kScaleGroup * kBlock;
    uvec4 words = load_words(page, base + uvec4(k / group * (group / 8u + 1u) * kPanel));
    uvec4 bytes = words >> uvec4(k / kBlock % kScaleGroup * 8u) & uvec4(255u);
    return vec4(mxfp4_half_scale(bytes.x), mxfp4_half_scale(bytes.y), mxfp4_half_scale(bytes.z), mxfp4_half_scale(bytes.w));
}

#define LANES_SCALE(i, j) \
    if (i < c_tile_rows) sums[i] = sums[i] * scale;

void scale_sums(U32 page, uvec4 base, uint k0) {
    if (c_weight_format != kMxfp4) return;
    vec4 scale = load_scales(page, base, k0);
    VKMOE_EACH_ROW(LANES_SCALE, 0)
}

// totals[i] = bias + the row's sum over `cols` columns of a matrix with `count` rows.
void lanes_dot(F32 x, U32 page, uvec4 outputs, uint count, uint weight, uint bias, bool biased, uint cols) {
    outputs = min(outputs, uvec4(count - 1u));
    uvec4 base = uvec4(weight) + outputs / uvec4(kPanel) * uvec4(panel_steps(cols) * kPanel) + outputs % uvec4(kPanel);
    vec4 start = vec4(uintBitsToFloat(0u));
    if (biased) start = uintBitsToFloat(load_words(page, uvec4(bias) + outputs));
    lanes_sum(x, page, base, cols, biased, start);
}
