// Reading packed weights and summing in the order R32: shared by every kernel that multiplies by weights.

// Rows of 16 words in a panel: see pack_panels.comp for the layouts.
uint panel_steps(uint cols) {
    if (c_weight_format == kF32) return cols;
    const uint group = kScaleGroup * kBlock;
    return c_weight_format == kMxfp4 ? cols / 8u + (cols + group - 1u) / group : (cols + 1u) / 2u;
}

// A weight as it enters the sum of its block: of MXFP4 the doubled code.
float weight_at(U32 page, uint base, uint k, uint lane) {
    if (c_weight_format == kF32) return uintBitsToFloat(page.at[base + k * kPanel + lane]);
    if (c_weight_format == kMxfp4) {
        uint word = page.at[base + (k / 8u + k / (kScaleGroup * kBlock) + 1u) * kPanel + lane];
        return mxfp4_code(word >> (k % 8u * 4u) & 15u);
    }
    uint word = page.at[base + (k >> 1) * kPanel + lane];
    uint h = (k & 1u) == 0u ? word & 0xffffu : word >> 16;
    return c_weight_format == kF16 ? f16_decode(h) : uintBitsToFloat(h << 16);
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

// What the total of the block that starts at column k is multiplied by (MXFP4).
float scale_at(U32 page, uint base, uint k, uint lane) {
    uint word = page.at[base + k / (kScaleGroup * kBlock) * (kScaleGroup * kBlock / 8u + 1u) * kPanel + lane];
    return mxfp4_half_scale(word >> (k / kBlock % kScaleGroup * 8u) & 255u);
}

// s + x*w: rounded twice in exact precision; in rounded precision the product is exact and either form gives the same bits.
float multiply_add(float x, float w, float s) { return c_fused != 0u ? fma(x, w, s) : s + x * w; }
vec4 multiply_add(vec4 x, vec4 w, vec4 s) { return c_fused != 0u ? fma(x, w, s) : s + x * w; }

// The total of one block of 32 terms (the last may be short): products added in ascending k, starting with the first product.
float block_dot(F32 x, uint row, U32 page, uint base, uint lane, uint k0, uint k1) {
    float s = x.at[row + k0] * weight_at(page, base, k0, lane);
    for (uint k = k0 + 1u; k < k1; ++k) s = multiply_add(x.at[row + k], weight_at(page, base, k, lane), s);
    if (c_weight_format == kMxfp4) s = s * scale_at(page, base, k0, lane);
    return s;
}
