#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/kernel.glsl"
// expert_weight_grad: grad[r, c] += sum over the expert's slots of grad_out[slot, r] * x[slot, c], of every expert; with
// c_bias & kBias also grad_bias[r] += sum of grad_out[slot, r].
//   in   grad_out [slots, rows] operands; x [slots, cols], or [tokens, cols] through token_of if c_gather, rounded to
//        c_operand_bits, operand rule, as it is loaded; offsets [experts+1]
//        c_dense: one sum over all `count` rows for dense_page
//   out  the page of each expert: f32 panels [rows, cols] at `weight`, `bias` [rows]  (state rule), assigned if c_fresh; an
//        expert without slots (unless c_fresh), or one of whose pages has no address, is left as it is. A value that may
//        not be stored is counted by its word in the page.
// One workgroup 32 rows x 64 columns of an expert's matrix; (expert, column tile, row tile), row tiles fastest. Order R32
// over the rank of a slot among those of its expert: ascending token ids. With c_fused grad_out has at most 16 bits, x 8.
KERNEL(ExpertWeightGrad)
#include "shaders/weight_grad.glsl"
#include "shaders/grad_tile.glsl"

// Loads in flight at a time. Drivers unroll a loop of 32 trips whole, and take twice as long to compile the kernel then.
const uint kInFlight = 8u;

float bias_sum, bias_total;  // of row lane_index()

// Thread = (row, every second term): neighbours read neighbouring rows.
void stage_grads(uint slot, uint count) {
    uint row = lane_index() % kTileRows;
    [[dont_unroll]] for (uint j = 0u; j < kBlock; j += 2u * kInFlight)
        [[unroll]] for (uint i = 0u; i < 2u * kInFlight; i += 2u) {
            uint k = lane_index() / kTileRows + j + i;
            float value = p.grad_out.at[(slot + min(k, count - 1u)) * p.rows + min(row0 + row, p.rows - 1u)];
            tile_x[k * kXStride + row / 4u][row % 4u] = k < count ? value : nothing();
        }
}

// Thread = column.
void stage_x(uint count) {
    uint at = lane_index(), col = min(col0 + at, p.cols - 1u);
    [[dont_unroll]] for (uint j = 0u; j < kBlock; j += kInFlight)
        [[unroll]] for (uint k = j; k < j + kInFlight; ++k) {
            float value = as_operand(p.x.at[tile_row_at[min(k, count - 1u)] + col], c_operand_bits);
            tile_w[k * kWeightStride + at / 4u][at % 4u] = k < count ? value : one();
        }
}

void place_slots(uint slot, uint count) {
    if (lane_index() >= kBlock) return;
    uint at = slot + min(lane_index(), count - 1u);
    tile_row_at[lane_index()] = (c_gather != 0u ? p.token_of.at[at] : at) * p.cols;
}

bool has_bias() { return (c_bias & kBias) != 0u && col0 == 0u && lane_index() < kTileRows; }

void add_bias_terms() {
    uint row = lane_index();
    for (uint k = 0u; k < kBlock; ++k) bias_sum = bias_sum + tile_x[k * kXStride + row / 4u][row % 4u];
}

// Slots first .. end-1, whose ranks begin at `before`.
void add_slots() {
    for (uint slot = first; slot < end;) {
        uint begin = (before + (slot - first)) % kBlock, count = min(kBlock - begin, end - slot);
        barrier();
        place_slots(slot, count);
        memoryBarrierShared();
        barrier();
        stage_grads(slot, count);
        stage_x(count);
        memoryBarrierShared();
        barrier();
        add_terms(count);
        if (has_bias()) add_bias_terms();
        if (begin + count == kBlock) {
            add_sums();
            bias_total = bias_total + bias_sum;
            bias_sum = nothing();
        }
        slot += count;
    }
}

// The tile as [row][column] in shared memory, on its way between registers and a page.
void put_tile(vec4 values[8]) {
    barrier();
    [[unroll]] for (uint i = 0u; i < 8u; ++i) tile_w[(octet() * 8u + i) * kWeightStride + first_output() / 4u] = values[i];
    memoryBarrierShared();
    barrier();
}

// Element i of the tile in the order of the page's words: its word, row and column. False: outside of the matrix.
bool element_at(uint i, out uint word, out uint row, out uint col) {
    row = i / (kPanel * kTileOutputs) * kPanel + i % kPanel;
    col = i / kPanel % kTileOutputs;
    word = gradient_word(row0 + row, col0 + col);
    return row0 + row < p.rows && col0 + col < p.cols;
}

void load_tile(U32 page, out vec4 values[8]) {
    uint word, row, col;
    barrier();
    for (uint i = lane_index(); i < kTileRows * kTileOutputs; i += kWorkgroup)
        if (element_at(i, word, row, col)) tile_w[row * kWeightStride + col / 4u][col % 4u] = uintBitsToFloat(page.at[word]);
    memoryBarrierShared();
    barrier();
    [[unroll]] for (uint i = 0u; i < 8u; ++i) values[i] = tile_w[(octet() * 8u + i) * kWeightStride + first_output() / 4u];
}

void store_tile(U32 page, vec4 values[8]) {
    uint word, row, col;
    put_tile(values);
    for (uint i = lane_index(); i < kTileRows * kTileOutputs; i += kWorkgroup)
        if (element_at(i, word, row, col))
            page.at[word] = floatBitsToUint(normal_or_zero(tile_w[row * kWeightStride + col / 4u][col % 4u]));
}

void add_tile(U32 page) {
    uint word, row, col;
    add_sums();
    put_tile(totals);
    for (uint i = lane_index(); i < kTileRows * kTileOutputs; i += kWorkgroup)
        if (element_at(i, word, row, col)) add_gradient(page, word, tile_w[row * kWeightStride + col / 4u][col % 4u]);
}

// What earlier chunks left.
void load_carried(bool has_row, uint bias) {
    if (before >= kBlock) {
        load_tile(p.totals.at[number], totals);
        if (has_row) bias_total = uintBitsToFloat(p.totals.at[number].at[bias]);
    }
    if (before % kBlock != 0u) {
        load_tile(p.partials.at[number], sums);
        if (has_row) bias_sum = uintBitsToFloat(p.partials.at[number].at[bias]);
    }
}

// What this one leaves.
void store_carried(bool has_row, uint bias) {
    uint after = before + (end - first);
    if (after >= kBlock) {
        store_tile(p.totals.at[number], totals);
        if (has_row) p.totals.at[number].at[bias] = floatBitsToUint(normal_or_zero(bias_total));
    }
    if (after % kBlock != 0u) {
        store_tile(p.partials.at[number], sums);
        if (has_row) p.partials.at[number].at[bias] = floatBitsToUint(normal_or_zero(bias_sum));
    }
}

void main() {
    if (!find_work(kTileOutputs)) return;  // the whole workgroup
    uint bias = p.bias + row0 + lane_index();
    bool has_row = has_bias() && row0 + lane_index() < p.rows;
    clear_totals();
    clear_sums();
    bias_total = bias_sum = nothing();
    if (c_carry != 0u) load_carried(has_row, bias);
    add_slots();
    if (!is_last()) {
        store_carried(has_row, bias);
    } else {
        U32 page = p.pages.at[number];
        add_tile(page);
        if (has_row) add_gradient(page, bias, bias_total + bias_sum);
    }
}
