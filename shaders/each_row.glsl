// What the forms in lanes share.
#extension GL_EXT_shader_explicit_arithmetic_types_int64 : require
#extension GL_EXT_shader_subgroup_extended_types_int64 : require
#extension GL_KHR_shader_subgroup_ballot : require
#extension GL_KHR_shader_subgroup_shuffle : require

// DO(i, j) for i = 0..15: rows written out, so that arrays of rows stay in registers on drivers that unroll no loop.
#define VKMOE_EIGHT_ROWS(DO, a, b, c, d, e, f, g, h, j) DO(a, j) DO(b, j) DO(c, j) DO(d, j) DO(e, j) DO(f, j) DO(g, j) DO(h, j)
#define VKMOE_EIGHT(DO, j) VKMOE_EIGHT_ROWS(DO, 0, 1, 2, 3, 4, 5, 6, 7, j)
#define VKMOE_EACH_ROW(DO, j)                       \
    VKMOE_EIGHT(DO, j)                              \
    VKMOE_EIGHT_ROWS(DO, 8, 9, 10, 11, 12, 13, 14, 15, j)

// Words of 64 bits: two neighbours of an array of words that begins at a multiple of eight bytes.
layout(buffer_reference, scalar, buffer_reference_align = 8) buffer U64 { uint64_t at[]; };

// Words at and at+1 of the array: `at` is even.
uvec2 words_at(U64 words, uint at) { return unpackUint2x32(words.at[at / 2u]); }

vec2 unpacked(uint64_t pair) { return uintBitsToFloat(unpackUint2x32(pair)); }
uint64_t packed(vec2 pair) { return packUint2x32(floatBitsToUint(pair)); }

// What lane `lane` holds, one of the subgroup's first eight. Software drivers shuffle eight lanes of 32 bits in one
// instruction of the processor's, other numbers of lanes one by one; a broadcast is a search for the first active lane.
uint from_lane(uint own, uint lane) {
    return c_lanes == 8u ? subgroupShuffle(own, lane) : subgroupBroadcast(own, lane);
}
vec2 from_lane(uint64_t own, uint lane) {
    if (c_lanes != 8u) return unpacked(subgroupBroadcast(own, lane));
    uvec2 words = unpackUint2x32(own);
    return uintBitsToFloat(uvec2(subgroupShuffle(words.x, lane), subgroupShuffle(words.y, lane)));
}

// One element of a vector whose index is not known when the pipeline is built.
float element_of(vec4 v, uint i) { return i == 0u ? v.x : i == 1u ? v.y : i == 2u ? v.z : v.w; }
uint element_of(uvec4 v, uint i) { return i == 0u ? v.x : i == 1u ? v.y : i == 2u ? v.z : v.w; }

// The first of the subgroup's 4*c_lanes outputs in workgroup column `column`, and the thread's four: two neighbours, and two
// a subgroup's pairs apart. Past the end of the matrix they are not stored.
uint lanes_first(uint column) { return column * kLanesOutputs + lane_index() / c_lanes * c_lanes * 4u; }
uvec4 lane_outputs(uint column) {
    return uvec4(lanes_first(column) + lane_index() % c_lanes * 2u) + uvec4(0u, 1u, 2u * c_lanes, 2u * c_lanes + 1u);
}
