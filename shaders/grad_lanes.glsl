// Rows times packed weights the other way round, for software drivers: sums over the rows of a matrix [rows, cols] in
// panels (f32 or bf16), its columns are the outputs; a word serves the two columns that it holds.
#include "shaders/lanes.glsl"

uint panel_words;  // from a panel of sixteen rows to the next

// The thread's outputs; past the end of the matrix they are not stored. Of bf16 both columns of a word.
uvec4 lane_outputs(uint column) {
    if (c_weight_format == kF32) return lanes_apart(column);
    return uvec4(lanes_first(column) + 2u * (lane_index() % c_lanes)) + uvec4(0u, 1u, 2u * c_lanes, 2u * c_lanes + 1u);
}

uint word_of(uint k) { return k / kPanel * panel_words + k % kPanel; }

bool starts_word(uint j) { return true; }

uvec4 load_words(U32 page, uvec4 at) {
    if (c_weight_format == kF32) return uvec4(page.at[at.x], page.at[at.y], page.at[at.z], page.at[at.w]);
    uvec2 words = uvec2(page.at[at.x], page.at[at.z]);
    return uvec4(words.x << 16, words.x & 0xffff0000u, words.y << 16, words.y & 0xffff0000u);
}

vec4 weights_of(uvec4 words, uint j) { return uintBitsToFloat(words); }

void scale_sums(U32 page, uvec4 base, uint k0) {}

// totals[i] = the row's sum over the matrix's rows.
void grad_lanes_dot(F32 x, U32 page, uvec4 outputs, uint weight, uint rows, uint cols) {
    const uint columns = c_weight_format == kF32 ? 1u : 2u;
    panel_words = panel_steps(cols) * kPanel;
    uvec4 base = uvec4(weight) + min(outputs, uvec4(cols - 1u)) / uvec4(columns) * uvec4(kPanel);
    lanes_sum(x, page, base, rows, false, vec4(uintBitsToFloat(0u)));
}
