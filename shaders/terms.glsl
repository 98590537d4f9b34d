// Terms of sums in order R32.
#ifndef VKMOE_TERMS
#define VKMOE_TERMS

// The term nothing() * one() is -0: it changes no sum, and a sum that starts there starts at its first term, bit for bit.
float nothing() { return uintBitsToFloat(0x80000000u); }
float one() { return uintBitsToFloat(0x3f800000u); }

// s + x*w: rounded twice in exact precision; in rounded precision the product is exact and either form gives the same bits.
float multiply_add(float x, float w, float s) { return c_fused != 0u ? fma(x, w, s) : s + x * w; }
vec4 multiply_add(vec4 x, vec4 w, vec4 s) { return c_fused != 0u ? fma(x, w, s) : s + x * w; }

#endif
