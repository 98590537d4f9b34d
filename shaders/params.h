// Parameters of every kernel: one struct each, read by glslang and by the C++ compiler, pushed as push constants.
//
// Rules: typed addresses first, then 32-bit numbers; at most 128 bytes; the size is a multiple of 8 (unpadded, the two
// compilers disagree). Shapes are row-major. `status` is [2] counters of the values that were not finite (or >= 2^63):
// how many, and the bitwise complement of the smallest index seen (so that zero means none).
#ifndef VKMOE_PARAMS_H
#define VKMOE_PARAMS_H

#include "shaders/constants.h"
#include "shaders/pointers.h"

#ifdef __cplusplus
namespace vkmoe {
inline namespace v1 {
#endif

// Activations, biases and inputs made safe to use: see apply_rule.comp.
struct ApplyRule {
    U32 source;  // [count] values in weight_format, 16-bit ones two to a word
    F32 target;  // [count] out
    U32 status;  // [2]
    uint32_t count;
    uint32_t pad;
};

// A row-major matrix into panels: see pack_panels.comp.
struct PackPanels {
    U32 source;  // [rows, cols] in weight_format, 16-bit ones two to a word; kMxfp4: codes, eight to a word
    U32 scales;  // kMxfp4: [rows, cols/32], four to a word
    U32 target;  // [ceil(rows/16)] panels, out
    U32 status;  // [2]
    uint32_t rows, cols;
    uint32_t row_step;  // row r of the matrix is row r*row_step of the source
    uint32_t pad;
};

struct RouterLogits {
    F32 x;       // [tokens, model_dim] operands
    U32 weight;  // [experts, model_dim] in f32 panels
    F32 bias;    // [experts], if constants.bias
    F32 logits;  // [tokens, experts] out
    U32 status;  // [2]
    uint32_t tokens, experts, model_dim;
    uint32_t pad;
};

struct RouteTopk {
    F32 logits;          // [tokens, experts]
    F32 selection_bias;  // [experts], if constants.selection_bias
    U32 selected;        // [tokens, top_k] out, best first
    F32 gates;           // [tokens, top_k] out
    F32 probabilities;   // [tokens, experts] out, if constants.probabilities
    U32 keys;            // [tokens, experts] out, if constants.capacity: larger is better, 0 may not be chosen
    F32 scores;          // [tokens, experts] out, if constants.capacity: what gates are made of
    U32 status;          // [2]
    uint32_t tokens, experts, top_k;
    uint32_t groups, groups_kept;  // unless constants.group_score is kNoGroups
    float renormalize_epsilon;
    float routed_scale;
    uint32_t pad;
};

// The capacity dispatch: see assign_capacity.comp.
struct AssignCapacity {
    U32 keys;      // [tokens, experts]
    F32 scores;    // [tokens, experts]
    U32 taken;     // [experts] tokens each expert has accepted so far, in and out
    U32 selected;  // [tokens, top_k] out
    F32 gates;     // [tokens, top_k] out
    U32 status;    // [2]
    uint32_t first_token, tokens, experts, top_k;
    uint32_t capacity;  // tokens an expert may accept
    float renormalize_epsilon;
    float routed_scale;
    uint32_t pad;
};

struct AddNoise {
    F32 logits;  // [tokens, experts] in and out
    U32 status;  // [2]
    uint32_t tokens, experts;
    uint32_t first_token;  // of the call: the noise of a token does not depend on the batch
    uint32_t seed;
    float noise_std;
    uint32_t pad;
};

// The gate of a sigmoid-gated shared expert.
struct SharedGate {
    F32 x;       // [tokens, model_dim] operands
    F32 weight;  // [model_dim] operands
    F32 gates;   // [tokens] out
    U32 status;  // [2]
    uint32_t tokens, model_dim;
};

// bin_count, bin_offsets and bin_tokens share their parameters: three steps of one stable counting sort.
struct BinTokens {
    U32 selected;  // [tokens*top_k] expert of each assignment; not below `experts`: it goes nowhere
    U32 counts;    // [chunks, experts] assignments per chunk and expert (zeroed before bin_count); bin_offsets turns it
                   // into first slots
    U32 offsets;   // [experts+1] out: first slot of each expert
    U32 token_of;  // [tokens*top_k] out: token of each slot
    U32 slot_of;   // [tokens*top_k] out: slot of each assignment, or kAbsent
    U32 tiles;     // [tiles, 2] out: expert, first slot
    U32 tile_count;   // [1] out
    U32 up_groups;    // [3] out: indirect dispatch size of expert_up
    U32 down_groups;  // [3] out: of expert_down
    uint32_t assignments, experts, top_k, chunks;
    uint32_t up_columns, down_columns;  // workgroups per tile
};

// Kernels that multiply by experts' weights; offsets are in 32-bit words from the page's address.
struct ExpertUp {
    F32 x;           // [tokens, model_dim] operands
    Pages pages;     // [pages]
    U32 offsets;     // [experts+1]
    U32 tiles;       // [tiles, 2]
    U32 tile_count;  // [1]
    U32 token_of;    // [slots]
    F32 hidden;      // [slots, hidden_dim] out, operands of expert_down
    F32 gate_total;  // [slots, hidden_dim] out, unless relu, if constants.keep_totals: before the activation
    F32 up_total;    // [slots, hidden_dim] out, if constants.keep_totals
    U32 status;      // [2]
    uint32_t model_dim, hidden_dim;
    uint32_t gate_weight, up_weight, gate_bias, up_bias;
    uint32_t rows;  // slots; tokens if constants.dense
    uint32_t dense_page;
    uint32_t experts;                  // the GEMV form finds a slot's expert in `offsets`
    float swiglu_limit, swiglu_alpha;  // kClampedSwiglu
    uint32_t pad;
};

struct ExpertDown {
    F32 hidden;      // [slots, hidden_dim] operands
    Pages pages;     // [pages]
    U32 offsets;     // [experts+1]
    U32 tiles;       // [tiles, 2]
    U32 tile_count;  // [1]
    F32 y;           // [slots, model_dim] out
    U32 status;      // [2]
    uint32_t model_dim, hidden_dim;
    uint32_t down_weight, down_bias;
    uint32_t rows;
    uint32_t dense_page;
    uint32_t experts;  // the GEMV form finds a slot's expert in `offsets`
    uint32_t pad;
};

struct Combine {
    F32 y;             // [slots, model_dim]
    U32 slot_of;       // [tokens, top_k]; kAbsent: nothing to add
    F32 gates;         // [tokens, top_k]
    F32 shared_y;      // [tokens, model_dim], if constants.shared
    F32 shared_gates;  // [tokens], if constants.shared_gate
    F32 out_;          // [tokens, model_dim] out
    U32 status;        // [2]
    uint32_t tokens, model_dim, top_k;
    uint32_t pad;
};

struct SlotStats {
    F32 hidden;  // [slots, hidden_dim]
    F32 y;       // [slots, model_dim]
    F32 energy;  // [slots] out: sum of (y / 2^scale)^2
    U32 scale;   // [slots] out: biased exponent of the largest |y|, 0 if all are zero
    U32 quiet;   // [slots] out: hidden values with |h| < 0.01
    uint32_t slots, hidden_dim, model_dim;
    uint32_t pad;
};

struct PeakMultiplyAdd {
    F32 result;  // [threads] out
    uint32_t threads, iterations;
};

struct PeakRead {
    U32 source;  // [threads/64, steps, 64]
    U32 result;  // [threads] out
    uint32_t threads, steps;
};

#include "shaders/params_backward.h"
#include "shaders/params_language.h"

struct MathProbe {
    U32 a;       // [count] bits of the first argument
    U32 b;       // [count] bits of the second argument
    U32 result;  // [count] out
    uint32_t count;
    uint32_t function;  // of math_probe.h
    uint32_t first;     // in a sweep both arguments of i are the bit pattern first + i*step
    uint32_t step;      // 0: no sweep, arguments come from a and b
};

#ifdef __cplusplus
}  // inline namespace v1
}  // namespace vkmoe
#endif
#endif
