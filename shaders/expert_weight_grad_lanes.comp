#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/kernel.glsl"
#include "shaders/terms.glsl"
#include "shaders/each_row.glsl"
// expert_weight_grad_lanes: expert_weight_grad for software drivers; same inputs, outputs and bits; needs what lanes.glsl says,
// of grad_out as of x. One workgroup 32 rows x kLanesOutputs columns, c_tile_rows (8, 16 or 32) rows at a time; a thread two
// pairs of columns. Lane i loads rows 2i, 2i+1, 2i+16 and 2i+17 of a slot; from_lane brings them to the others.
KERNEL(ExpertWeightGrad)
#include "shaders/weight_grad.glsl"

const uint kChunk = 16u;  // rows of a load
const uint kSlots = 4u;   // of a loop trip
#define EACH_ROW(DO) VKMOE_EACH_ROW(DO, 0) VKMOE_EACH_ROW(DO, 16)  // row i + j

vec4 sums[kTileRows];  // of a block, the thread's four columns
vec4 totals[kTileRows];
vec4 kept_sums[kTileRows], kept_totals[kTileRows];  // on their way between pages and registers, found by index
vec4 bias_sums, bias_totals;                        // of the four rows that the lane loads

vec2 pair_at(U64 values, uint at) { return uintBitsToFloat(words_at(values, at)); }

vec4 load_columns(uint at, uvec4 columns) {
    columns = min(columns, uvec4(p.cols - 2u) + uvec4(0u, 1u, 0u, 1u));
    vec4 x = vec4(pair_at(U64(p.x), at + columns.x), pair_at(U64(p.x), at + columns.z));
    return vec4(as_operand(x.x, c_operand_bits), as_operand(x.y, c_operand_bits), as_operand(x.z, c_operand_bits),
                as_operand(x.w, c_operand_bits));
}

uvec4 lane_rows(uint row) { return uvec4(row + lane_index() % 8u * 2u) + uvec4(0u, 1u, kChunk, kChunk + 1u); }

vec4 load_grads(uint slot, uvec4 rows) {
    rows = uvec4(slot * p.rows) + min(rows, uvec4(p.rows - 2u) + uvec4(0u, 1u, 0u, 1u));
    vec4 grads = vec4(pair_at(U64(p.grad_out), rows.x), vec2(nothing()));
    if (c_tile_rows > kChunk) grads.zw = pair_at(U64(p.grad_out), rows.z);
    return grads;
}

// Slot k + j of the trip; past the last one x is 1 and the gradients -0, which changes no sum.
#define LOAD_SLOT(j)                                                  \
    {                                                                 \
        bool inside = k + j < count;                                  \
        vec4 x = load_columns(from_lane(x_at, j), columns);           \
        vec4 grads = load_grads(slot + min(k + j, count - 1u), rows); \
        xs[j] = inside ? x : vec4(one());                             \
        grads = inside ? grads : vec4(nothing());                     \
        low[j] = packed(grads.xy);                                    \
        high[j] = packed(grads.zw);                                   \
        bias_sums = bias_sums + grads;                                \
    }
// Rows 2i + j and the one after it, which lane i loaded (j is 0 or 16): all slots of the trip, so that a sum is in a
// register for all of them.
#define ADD_SLOT(i, j, at)                                          \
    {                                                               \
        vec2 two = from_lane(j == 0 ? low[at] : high[at], uint(i)); \
        even = multiply_add(vec4(two.x), xs[at], even);             \
        odd = multiply_add(vec4(two.y), xs[at], odd);               \
    }
#define ADD_PAIR(i, j)                                          \
    if (2 * i + j < c_tile_rows) {                              \
        vec4 even = sums[2 * i + j], odd = sums[2 * i + j + 1]; \
        ADD_SLOT(i, j, 0)                                       \
        ADD_SLOT(i, j, 1)                                       \
        ADD_SLOT(i, j, 2)                                       \
        ADD_SLOT(i, j, 3)                                       \
        sums[2 * i + j] = even;                                 \
        sums[2 * i + j + 1] = odd;                              \
    }
#define CLEAR_SUM(i, j) \
    if (i + j < c_tile_rows) sums[i + j] = vec4(nothing());
#define CLEAR_TOTAL(i, j) \
    if (i + j < c_tile_rows) totals[i + j] = vec4(nothing());
#define ADD_SUM(i, j) \
    if (i + j < c_tile_rows) totals[i + j] = totals[i + j] + sums[i + j];

// Slots slot .. slot+count-1, of one block.
void add_slots(uint slot, uint count, uvec4 rows, uvec4 columns) {
    for (uint k = 0u; k < count; k += kSlots) {
        uint at = slot + min(k + lane_index() % kSlots, count - 1u);
        uint x_at = (c_gather != 0u ? p.token_of.at[at] : at) * p.cols;
        vec4 xs[kSlots];
        uint64_t low[kSlots], high[kSlots];
        LOAD_SLOT(0u)
        LOAD_SLOT(1u)
        LOAD_SLOT(2u)
        LOAD_SLOT(3u)
        VKMOE_EIGHT(ADD_PAIR, 0)
        VKMOE_EIGHT(ADD_PAIR, 16)
    }
}

// A block is finished.
void add_sums() {
    EACH_ROW(ADD_SUM)
    EACH_ROW(CLEAR_SUM)
    bias_totals = bias_totals + bias_sums;
    bias_sums = vec4(nothing());
}

// All slots, whose ranks begin at `before`.
void add_blocks(uint row, uvec4 columns) {
    uvec4 rows = lane_rows(row);
    for (uint slot = first; slot < end;) {
        uint begin = (before + (slot - first)) % kBlock, count = min(kBlock - begin, end - slot);
        add_slots(slot, count, rows, columns);
        if (begin + count == kBlock) add_sums();
        slot += count;
    }
}

// ---- from and to pages, in which two rows of a column are neighbours -------------------------------------------------

// Rows row and row+1 of the thread's columns.
void load_rows(U64 page, uint row, uvec4 columns, out vec4 even, out vec4 odd) {
    uvec4 at = uvec4(gradient_word(min(row, p.rows - 2u), 0u)) + min(columns, uvec4(p.cols - 1u)) * uvec4(kPanel);
    vec2 a = pair_at(page, at.x), b = pair_at(page, at.y), c = pair_at(page, at.z), d = pair_at(page, at.w);
    even = vec4(a.x, b.x, c.x, d.x);
    odd = vec4(a.y, b.y, c.y, d.y);
}

vec4 load_biases(U64 page, uvec4 rows) {
    uvec4 at = uvec4(p.bias) + min(rows, uvec4(p.rows - 2u));
    return vec4(pair_at(page, at.x), pair_at(page, at.z));
}

#define TAKE(i, j)                          \
    if (i + j < c_tile_rows) {              \
        totals[i + j] = kept_totals[i + j]; \
        sums[i + j] = kept_sums[i + j];     \
    }
#define GIVE(i, j)                          \
    if (i + j < c_tile_rows) {              \
        kept_totals[i + j] = totals[i + j]; \
        kept_sums[i + j] = sums[i + j];     \
    }

// What earlier chunks left. It is read in any case: drivers take seconds to compile branches around so many values.
void load_carried(uint row, uvec4 columns) {
    bool has_total = before >= kBlock, has_sum = before % kBlock != 0u;
    for (uint i = 0u; i < c_tile_rows; i += 2u) {
        vec4 total[2], sum[2];
        load_rows(U64(p.totals.at[number]), row + i, columns, total[0], total[1]);
        load_rows(U64(p.partials.at[number]), row + i, columns, sum[0], sum[1]);
        kept_totals[i] = has_total ? total[0] : vec4(nothing());
        kept_totals[i + 1u] = has_total ? total[1] : vec4(nothing());
        kept_sums[i] = has_sum ? sum[0] : vec4(nothing());
        kept_sums[i + 1u] = has_sum ? sum[1] : vec4(nothing());
    }
    EACH_ROW(TAKE)
    if ((c_bias & kBias) == 0u) return;
    vec4 total = load_biases(U64(p.totals.at[number]), lane_rows(row)), sum = load_biases(U64(p.partials.at[number]), lane_rows(row));
    bias_totals = has_total ? total : vec4(nothing());
    bias_sums = has_sum ? sum : vec4(nothing());
}

void keep(U64 page, uint word, vec2 pair) { page.at[word / 2u] = packed(vec2(normal_or_zero(pair.x), normal_or_zero(pair.y))); }

void add_gradients(U64 page, uint word, vec2 total) {
    vec2 sum = c_fresh != 0u ? total : pair_at(page, word) + total;
    page.at[word / 2u] = packed(vec2(stored_gradient(sum.x, word), stored_gradient(sum.y, word + 1u)));
}

// Adds finished totals of two rows to the gradient, or keeps both parts for the next chunk.
void put(uint word, vec2 total, vec2 sum) {
    if (is_last()) {
        add_gradients(U64(p.pages.at[number]), word, c_carry == 0u ? total : total + sum);
        return;
    }
    uint after = before + (end - first);
    if (after >= kBlock) keep(U64(p.totals.at[number]), word, total);
    if (after % kBlock != 0u) keep(U64(p.partials.at[number]), word, sum);
}

// Element `column` of two rows.
vec2 both_of(vec4 even, vec4 odd, uint column) { return vec2(element_of(even, column), element_of(odd, column)); }

void put_rows(uint row, uvec4 columns) {
    EACH_ROW(GIVE)
    for (uint i = 0u; i < 2u * min(c_tile_rows, p.rows - row); ++i) {
        uint at = i / 4u * 2u, col = element_of(columns, i % 4u);
        if (col < p.cols)
            put(gradient_word(row + at, col), both_of(kept_totals[at], kept_totals[at + 1u], i % 4u),
                both_of(kept_sums[at], kept_sums[at + 1u], i % 4u));
    }
}

// The first subgroup of the first columns has the bias.
void put_bias(uint row) {
    if ((c_bias & kBias) == 0u || col0 != 0u || lane_index() >= min(c_tile_rows, kChunk) / 2u) return;
    uvec4 rows = lane_rows(row);
    if (rows.x < p.rows) put(p.bias + rows.x, bias_totals.xy, bias_sums.xy);
    if (c_tile_rows > kChunk && rows.z < p.rows) put(p.bias + rows.z, bias_totals.zw, bias_sums.zw);
}

void run_rows(uint row, uvec4 columns) {
    EACH_ROW(CLEAR_TOTAL)
    EACH_ROW(CLEAR_SUM)
    bias_totals = bias_sums = vec4(nothing());
    if (c_carry != 0u) load_carried(row, columns);
    add_blocks(row, columns);
    if (c_carry == 0u) add_sums();  // then sums are nothing: see put
    put_rows(row, columns);
    put_bias(row);
}

void main() {
    if (!find_work(kLanesOutputs)) return;
    if (lanes_first(col0 / kLanesOutputs) >= p.cols) return;  // the whole subgroup
    uvec4 columns = lane_outputs(col0 / kLanesOutputs);
    for (uint row = row0; row < min(row0 + kTileRows, p.rows); row += c_tile_rows) run_rows(row, columns);
}
