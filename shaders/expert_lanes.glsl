// The forward's GEMM and GEMV for software drivers: a word of weights serves all columns that it holds.
#include "shaders/lanes.glsl"

// A row of words of the panel: those of the thread's outputs.
uvec4 load_words(U64 page, uvec4 base, uint step) {
    return uvec4(words_at(page, base.x + step * kPanel), words_at(page, base.z + step * kPanel));
}

#define LOAD_WEIGHT(j, last) weights[j] = uintBitsToFloat(load_words(page, base, min(k + j, last)));
#define LOAD_HALVES(j, last)                                              \
    {                                                                     \
        uvec4 words = load_words(page, base, min(k + j, last) / 2u);      \
        weights[j] = halves(words & uvec4(0xffffu));                      \
        weights[j + 1u] = halves(words >> uvec4(16u));                    \
    }
#define DECODE_CODE(j, words) weights[j] = mxfp4_codes(words >> uvec4(4u * j) & uvec4(15u));

void load_weights(U64 page, uvec4 base, uint k, uint terms) {
    uint last = terms - 1u;
    if (c_weight_format == kF32) {
        VKMOE_EIGHT(LOAD_WEIGHT, last)
    } else if (c_weight_format == kMxfp4) {
        uvec4 words = load_words(page, base, word_step(min(k, last)));
        VKMOE_EIGHT(DECODE_CODE, words)
    } else {
        LOAD_HALVES(0u, last)
        LOAD_HALVES(2u, last)
        LOAD_HALVES(4u, last)
        LOAD_HALVES(6u, last)
    }
}

vec4 load_scales(U64 page, uvec4 base, uint k) {
    const uint group = kScaleGroup * kBlock;
    uvec4 words = load_words(page, base, k / group * (group / 8u + 1u));
    uvec4 bytes = words >> uvec4(k / kBlock % kScaleGroup * 8u) & uvec4(255u);
    return vec4(mxfp4_half_scale(bytes.x), mxfp4_half_scale(bytes.y), mxfp4_half_scale(bytes.z), mxfp4_half_scale(bytes.w));
}

#define LANES_SCALE(i, j) \
    if (i < c_tile_rows) sums[i] = sums[i] * scale;

void scale_sums(U32 page, uvec4 base, uint k0) {
    if (c_weight_format != kMxfp4) return;
    vec4 scale = load_scales(U64(page), base, k0);
    VKMOE_EACH_ROW(LANES_SCALE, 0)
}

vec4 load_biases(U32 page, uvec4 at) {
    return uintBitsToFloat(uvec4(page.at[at.x], page.at[at.y], page.at[at.z], page.at[at.w]));
}

// totals[i] = bias + the row's sum over `cols` columns of a matrix with `count` rows, which panels pad to pairs.
void lanes_dot(F32 x, U32 page, uvec4 outputs, uint count, uint weight, uint bias, bool biased, uint cols) {
    uvec4 inside = min(outputs, uvec4((count - 1u) / 2u * 2u) + uvec4(0u, 1u, 0u, 1u));
    uvec4 base = uvec4(weight) + inside / uvec4(kPanel) * uvec4(panel_steps(cols) * kPanel) + inside % uvec4(kPanel);
    vec4 start = vec4(uintBitsToFloat(0u));
    if (biased) start = load_biases(page, uvec4(bias) + min(outputs, uvec4(count - 1u)));
    lanes_sum(x, page, base, cols, biased, start);
}
