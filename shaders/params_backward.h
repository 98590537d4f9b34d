// Parameters of the backward kernels of a layer, of its auxiliary losses and of the optimiser; included by params.h.
//
// Slots are those of the forward pass: slot s belongs to the expert with offsets[e] <= s < offsets[e+1]. Gradients of
// activations are assigned, gradients of parameters accumulate. Gradients of parameters have the layout of the f32 page
// that they belong to. "Operands" follow the operand rule, rounded to constants.operand_bits where that is said.
#ifndef VKMOE_PARAMS_BACKWARD_H
#define VKMOE_PARAMS_BACKWARD_H

// combine backward, what a layer's output gradient means for the experts' outputs.
struct CombineBackward {
    F32 grad_out;       // [tokens, model_dim]
    U32 slot_of;        // [tokens, top_k]; kAbsent: nothing
    F32 gates;          // [tokens, top_k]
    F32 shared_gates;   // [tokens], if constants.shared_gate
    F32 grad_y;         // [slots, model_dim] out, operands in operand_bits: gate * grad_out
    F32 grad_shared_y;  // [tokens, model_dim] out, the same of the shared expert, unless constants.shared is kSharedNone
    U32 status;         // [2]
    uint32_t tokens, model_dim, top_k;
    uint32_t pad;
};

// Gradients of gates: dot products of grad_out with the experts' outputs.
struct GateBackward {
    F32 grad_out;            // [tokens, model_dim]
    F32 y;                   // [slots, model_dim]
    U32 slot_of;             // [tokens, top_k]
    F32 shared_y;            // [tokens, model_dim], if constants.shared_gate
    F32 shared_gates;        // [tokens], if constants.shared_gate
    F32 grad_gates;          // [tokens, top_k] out; 0 where the slot is kAbsent
    F32 grad_shared_logits;  // [tokens] out, if constants.shared_gate: of the shared gate before its sigmoid
    U32 status;              // [2]
    uint32_t tokens, model_dim, top_k;
    uint32_t pad;
};

// From gates to logits.
struct RouteTopkBackward {
    F32 logits;       // [tokens, experts]
    U32 selected;     // [tokens, top_k]
    F32 grad_gates;   // [tokens, top_k]
    F32 grad_logits;  // [tokens, experts] out, operands; 0 for experts that the gates do not depend on
    U32 status;       // [2]
    uint32_t tokens, experts, top_k;
    float renormalize_epsilon;
    float routed_scale;
    uint32_t pad;
};

// Adds the gradients of the balance loss (f constant) and of the router z-loss to those of the logits.
struct RouterLossBackward {
    F32 logits;       // [tokens, experts]
    U32 counts;       // [experts] assignments of the micro-batch, see CountTokens
    F32 grad_logits;  // [tokens, experts] in and out, operands
    U32 status;       // [2]
    uint32_t tokens, experts;
    uint32_t assignments;  // of the micro-batch: f[e] = counts[e] / assignments; 0 counts as 1
    float balance_scale;   // weight * experts / tokens of the micro-batch, or what a trainer makes of it; 0: none
    float z_scale;         // 2 * weight / tokens of the micro-batch; 0: none
    uint32_t pad;
};

// counts[e] += tokens of expert e: the micro-batch's counts over its chunks.
struct CountTokens {
    U32 offsets;  // [experts+1]
    U32 counts;   // [experts] in and out
    uint32_t experts;
    uint32_t pad;
};

// Gradient of the logits' operands: grad_x = grad_logits * weight. Also that of a tied head.
struct RouterLogitsBackward {
    F32 grad_logits;  // [tokens, experts] operands
    U32 weight;       // [experts, model_dim] in f32 panels
    F32 grad_x;       // [tokens, model_dim] out
    U32 status;       // [2]
    uint32_t tokens, experts, model_dim;
    uint32_t pad;
};

struct ExpertDownBackward {
    F32 grad_y;       // [slots, model_dim] operands
    Pages pages;      // [pages] weights
    U32 offsets;      // [experts+1]
    U32 tiles;        // [tiles, 2]
    U32 tile_count;   // [1]
    F32 grad_hidden;  // [slots, hidden_dim] out
    U32 status;       // [2]
    uint32_t model_dim, hidden_dim;
    uint32_t down_weight;
    uint32_t rows;  // slots; tokens if constants.dense
    uint32_t dense_page;
    uint32_t pad;
};

// Elementwise: from the gradient of hidden values to those of gate's and up's totals.
struct ActivationBackward {
    F32 gate_total;   // [count], unless relu
    F32 up_total;     // [count]
    F32 grad_hidden;  // [count]
    F32 grad_gate;    // [count] out, operands in operand_bits, unless relu
    F32 grad_up;      // [count] out, operands in operand_bits
    U32 status;       // [2]
    uint32_t count;
    float swiglu_limit, swiglu_alpha;
    uint32_t pad;
};

struct ExpertUpBackward {
    F32 grad_gate;   // [slots, hidden_dim] operands, unless relu
    F32 grad_up;     // [slots, hidden_dim] operands
    Pages pages;     // [pages] weights
    U32 offsets;     // [experts+1]
    U32 tiles;       // [tiles, 2]
    U32 tile_count;  // [1]
    F32 grad_x;      // [slots, model_dim] out: gate's total + up's total
    U32 status;      // [2]
    uint32_t model_dim, hidden_dim;
    uint32_t gate_weight, up_weight;
    uint32_t rows;
    uint32_t dense_page;
};

// One matrix of every expert: grad[row, col] += sum over the expert's slots of grad_out[slot, row] * x[slot, col], and of
// its bias: sum of grad_out[slot, row]. With constants.fresh both are assigned. With constants.dense the same of one page
// over all rows of grad_out (the shared expert, the router, a tied head).
struct ExpertWeightGrad {
    F32 grad_out;     // [slots, rows] operands
    F32 x;            // [slots, cols]; [tokens, cols] if constants.gather; rounded to operand_bits as it is loaded
    Pages pages;      // [pages] gradients, in and out
    Pages totals;     // [pages] and
    Pages partials;   // [pages]: accumulators between chunks, if constants.carry
    U32 offsets;      // [experts+1]
    U32 token_of;     // [slots], if constants.gather
    U32 carried;      // [experts] slots of earlier chunks, if constants.carry; of dense_page: its word `experts`
    U32 status;       // [2]
    uint32_t rows, cols;
    uint32_t weight, bias;  // word offsets in a page; bias if constants.bias
    uint32_t experts;
    uint32_t count;  // dense: rows of grad_out
    uint32_t dense_page;
    uint32_t last;  // constants.carry: 1: the micro-batch ends with this chunk
};

// Sums a layer's input gradient: (shared + sum over ranks of grad_x) + router, in that order.
struct DispatchBackward {
    F32 grad_x;              // [slots, model_dim]
    U32 slot_of;             // [tokens, top_k]
    F32 grad_shared_x;       // [tokens, model_dim], unless constants.shared is kSharedNone
    F32 grad_shared_logits;  // [tokens], if constants.shared_gate
    F32 shared_router;       // [model_dim] operands, if constants.shared_gate
    F32 grad_router_x;       // [tokens, model_dim]
    F32 grad_in;             // [tokens, model_dim] out
    U32 status;              // [2]
    uint32_t tokens, model_dim, top_k;
    uint32_t pad;
};

// Gradient of the shared expert's gate vector: grad[i] += sum over tokens of grad_shared_logits[t] * x[t, i].
struct SharedGateBackward {
    F32 grad_shared_logits;  // [tokens]
    F32 x;                   // [tokens, model_dim] operands
    F32 grad;                // [model_dim] in and out
    U32 status;              // [2]
    uint32_t tokens, model_dim;
};

// ---- losses and the optimiser ---------------------------------------------------------------------------------------

struct SquaredError {
    F32 out_;      // [tokens, model_dim]
    F32 target;    // [tokens, model_dim]
    F32 grad_out;  // [tokens, model_dim] out: out - target
    F32 losses;    // [tokens] out: sum of (out - target)^2 / 2
    U32 status;    // [2]
    uint32_t tokens, model_dim;
};

struct Adamw {
    F32 weights;  // [count] in and out
    F32 grads;    // [count]
    F32 first;    // [count] in and out: mean of gradients
    F32 second;   // [count] in and out: mean of their squares
    U32 touched;  // [count / page_words], if constants.skip: 0: a page that has never had a gradient stays as it is
    U32 status;   // [2]
    uint32_t count, page_words;
    float grad_scale, clip;  // a gradient is multiplied by both, in this order, rounded each time
    float learning_rate;
    float beta1, one_minus_beta1, beta2, one_minus_beta2;  // formed in double
    float correction1, correction2;                        // 1 / (1 - beta^step)
    float epsilon, weight_decay;
    uint32_t pad;
};

// Partial sums of squares: squares[64*g + lane] over k of (grads[65536*g + 64*k + lane] * scale)^2.
struct GradSquares {
    F32 grads;    // [count]
    F32 squares;  // [ceil(count/65536)*64] out
    U32 status;   // [2]
    uint32_t count;
    float scale;
};

// grads = through16(grads * before) * after: through16 truncates to float16 if constants.weight_format is kF16, as the
// reference's mixed precision does (what is too large becomes infinity), and is nothing else.
struct ScaleGradients {
    F32 grads;  // [count] in and out
    uint32_t count;
    float before, after;
    uint32_t pad;
};

// f32 panels of a matrix in every page into bf16 panels.
struct RoundPanels {
    Pages source;  // [pages] f32
    Pages target;  // [pages] bf16, out
    uint32_t pages, first_page;
    uint32_t rows, cols;
    uint32_t source_weight, target_weight;  // word offsets
};

// The same of `count` words that stay as they are: biases.
struct CopyWords {
    Pages source;  // [pages]
    Pages target;  // [pages] out
    uint32_t pages, first_page;
    uint32_t count;
    uint32_t source_at, target_at;  // word offsets
    uint32_t pad;
};

#endif
