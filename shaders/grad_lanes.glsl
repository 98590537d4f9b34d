// Rows times packed weights the other way round, for software drivers: sums over the rows of a matrix [rows, cols] in
// panels (f32 or bf16), its columns are the outputs; a word serves the two columns that it holds.
#include "shaders/lanes.glsl"

uint panel_words;  // from a panel of sixteen rows to the next

// Words of rows k and k+1 of a panel, in which they are neighbours.
uvec2 load_words(U64 page, uint base, uint k) { return words_at(page, base + k / kPanel * panel_words + k % kPanel); }

#define LOAD_WEIGHTS(j, last)                                                                          \
    {                                                                                                  \
        uvec2 a = load_words(page, base.x, min(k + j, last)), c = load_words(page, base.z, min(k + j, last)); \
        if (c_weight_format == kF32) {                                                                 \
            uvec2 b = load_words(page, base.y, min(k + j, last)), d = load_words(page, base.w, min(k + j, last)); \
            weights[j] = uintBitsToFloat(uvec4(a.x, b.x, c.x, d.x));                                   \
            weights[j + 1u] = uintBitsToFloat(uvec4(a.y, b.y, c.y, d.y));                              \
        } else {                                                                                       \
            weights[j] = both_columns(uvec2(a.x, c.x));                                                \
            weights[j + 1u] = both_columns(uvec2(a.y, c.y));                                           \
        }                                                                                              \
    }

vec4 both_columns(uvec2 words) {
    return uintBitsToFloat(uvec4(words.x << 16, words.x & 0xffff0000u, words.y << 16, words.y & 0xffff0000u));
}

void load_weights(U64 page, uvec4 base, uint k, uint terms) {
    uint last = terms - 2u;
    LOAD_WEIGHTS(0u, last)
    LOAD_WEIGHTS(2u, last)
    LOAD_WEIGHTS(4u, last)
    LOAD_WEIGHTS(6u, last)
}

void scale_sums(U32 page, uvec4 base, uint k0) {}

// totals[i] = the row's sum over the matrix's rows.
void grad_lanes_dot(F32 x, U32 page, uvec4 outputs, uint weight, uint rows, uint cols) {
    const uint columns = c_weight_format == kF32 ? 1u : 2u;
    panel_words = panel_steps(cols) * kPanel;
    uvec4 base = uvec4(weight) + min(outputs, uvec4(cols - 1u)) / uvec4(columns) * uvec4(kPanel);
    lanes_sum(x, page, base, rows, false, vec4(uintBitsToFloat(0u)));
}
