// Reading packed weights and summing in the order R32: shared by every kernel that multiplies by weights.
#include "shaders/terms.glsl"

// Rows of 16 words in a panel: see pack_panels.comp for the layouts.
uint panel_steps(uint cols) {
    if (c_weight_format == kF32) return cols;
    const uint group = kScaleGroup * kBlock;
    return c_weight_format == kMxfp4 ? cols / 8u + (cols + group - 1u) / group : (cols + 1u) / 2u;
}

// Four finite f16 codes: f16_decode without its special cases. A subnormal is an integer times 2^-24.
vec4 f16_weights(uvec4 h) {
    vec4 normal = uintBitsToFloat(((h & uvec4(0x7fffu)) << uvec4(13u)) + uvec4(112u << 23));
    vec4 small = vec4(h & uvec4(0x3ffu)) * vec4(uintBitsToFloat(0x33800000u));
    vec4 magnitude = mix(normal, small, equal(h & uvec4(0x7c00u), uvec4(0u)));
    return uintBitsToFloat(floatBitsToUint(magnitude) | (h & uvec4(0x8000u)) << uvec4(16u));
}

// Four doubled codes: mxfp4_code.
vec4 mxfp4_codes(uvec4 code) {
    vec4 magnitude = vec4((uvec4(0xc8643210u) >> ((code & uvec4(7u)) << uvec4(2u))) & uvec4(15u));
    return uintBitsToFloat(floatBitsToUint(magnitude) | (code & uvec4(8u)) << uvec4(28u));
}

// Four 16-bit weights.
vec4 halves(uvec4 h) { return c_weight_format == kF16 ? f16_weights(h) : uintBitsToFloat(h << uvec4(16u)); }

// What the total of the block that starts at column k is multiplied by (MXFP4).
float scale_at(U32 page, uint base, uint k, uint lane) {
    uint word = page.at[base + k / (kScaleGroup * kBlock) * (kScaleGroup * kBlock / 8u + 1u) * kPanel + lane];
    return mxfp4_half_scale(word >> (k / kBlock % kScaleGroup * 8u) & 255u);
}

// The row of words that holds column k.
uint word_step(uint k) {
    if (c_weight_format == kF32) return k;
    return c_weight_format == kMxfp4 ? k / 8u + k / (kScaleGroup * kBlock) + 1u : k >> 1;
}

// Weights of columns k .. k+7 (k a multiple of 8, below `end`), as they enter the sum of their block: of MXFP4 the doubled
// codes. A word is loaded once. Columns from `end` on are not read: they repeat earlier ones.
void load_eight(U32 page, uint base, uint lane, uint k, uint end, out float w[8]) {
    if (c_weight_format == kMxfp4) {
        uint word = page.at[base + word_step(k) * kPanel + lane];
        vec4 low = mxfp4_codes(uvec4(word, word >> 4, word >> 8, word >> 12) & uvec4(15u));
        vec4 high = mxfp4_codes(uvec4(word >> 16, word >> 20, word >> 24, word >> 28) & uvec4(15u));
        w = float[8](low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w);
    } else if (c_weight_format == kF32) {
        [[unroll]] for (uint j = 0u; j < 8u; ++j)
            w[j] = uintBitsToFloat(page.at[base + min(k + j, end - 1u) * kPanel + lane]);
    } else {
        uvec4 steps = min(uvec4(k / 2u) + uvec4(0u, 1u, 2u, 3u), uvec4((end - 1u) / 2u)) * uvec4(kPanel) + uvec4(base + lane);
        uvec4 words = uvec4(page.at[steps.x], page.at[steps.y], page.at[steps.z], page.at[steps.w]);
        vec4 even = halves(words & uvec4(0xffffu)), odd = halves(words >> uvec4(16u));
        w = float[8](even.x, odd.x, even.y, odd.y, even.z, odd.z, even.w, odd.w);
    }
}

// The total of one block of 32 terms (the last may be short): products added in ascending k, starting with the first product.
float block_dot(F32 x, uint row, U32 page, uint base, uint lane, uint k0, uint k1) {
    float s = uintBitsToFloat(0u);
    for (uint k = k0; k < k1; k += 8u) {
        float w[8];
        load_eight(page, base, lane, k, k1, w);
        s = k == k0 ? x.at[row + k] * w[0] : multiply_add(x.at[row + k], w[0], s);
        [[unroll]] for (uint j = 1u; j < 8u; ++j)
            if (k + j < k1) s = multiply_add(x.at[row + k + j], w[j], s);
    }
    if (c_weight_format == kMxfp4) s = s * scale_at(page, base, k0, lane);
    return s;
}
