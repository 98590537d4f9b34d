// Reading packed weights and summing in the order R32: shared by every kernel that multiplies by weights.

// Word index of (step, lane) in a panel; `steps` is cols for f32 and ceil(cols/2) for the 16-bit formats.
uint panel_steps(uint cols) { return c_weight_format == kF32 ? cols : (cols + 1u) / 2u; }

float weight_at(U32 page, uint base, uint k, uint lane) {
    if (c_weight_format == kF32) return uintBitsToFloat(page.at[base + k * kPanel + lane]);
    uint word = page.at[base + (k >> 1) * kPanel + lane];
    uint h = (k & 1u) == 0u ? word & 0xffffu : word >> 16;
    return c_weight_format == kF16 ? f16_decode(h) : uintBitsToFloat(h << 16);
}

// s + x*w: rounded twice in exact precision; in rounded precision the product is exact and either form gives the same bits.
float multiply_add(float x, float w, float s) { return c_fused != 0u ? fma(x, w, s) : s + x * w; }
vec4 multiply_add(vec4 x, vec4 w, vec4 s) { return c_fused != 0u ? fma(x, w, s) : s + x * w; }

// The total of one block of 32 terms (the last may be short): products added in ascending k, starting with the first product.
float block_dot(F32 x, uint row, U32 page, uint base, uint lane, uint k0, uint k1) {
    float s = x.at[row + k0] * weight_at(page, base, k0, lane);
    for (uint k = k0 + 1u; k < k1; ++k) s = multiply_add(x.at[row + k], weight_at(page, base, k, lane), s);
    return s;
}
