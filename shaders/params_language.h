// Parameters of the language model's kernels; included by params.h.
//
// Rows are the tokens of all sequences of a micro-batch, one sequence after the other; positions[t] counts from the
// start of t's sequence. Matrices of [vocab, model_dim] lie in f32 panels.
#ifndef VKMOE_PARAMS_LANGUAGE_H
#define VKMOE_PARAMS_LANGUAGE_H

struct EmbedTokens {
    U32 ids;     // [tokens]
    U32 weight;  // [vocab, model_dim] f32 panels
    F32 x;       // [tokens, model_dim] out
    uint32_t tokens, model_dim;
};

// grad[ids[i]] += sum over positions[offsets[i] .. offsets[i+1]) of grad_x, in their order (ascending).
struct EmbedBackward {
    F32 grad_x;     // [tokens, model_dim]
    U32 ids;        // [distinct] the vocabulary rows that occur, each once
    U32 offsets;    // [distinct+1]
    U32 positions;  // [tokens] rows of grad_x
    U32 grad;       // [vocab, model_dim] f32 panels, in and out
    U32 status;     // [2]
    uint32_t distinct, model_dim;
};

struct RmsNorm {
    F32 x;       // [tokens, model_dim]
    F32 weight;  // [model_dim]
    F32 y;       // [tokens, model_dim] out, operands: weight * x / root
    F32 roots;   // [tokens] out: sqrt(mean of x^2 + epsilon)
    U32 status;  // [2]
    uint32_t tokens, model_dim;
    float epsilon;
    uint32_t pad;
};

struct RmsNormBackward {
    F32 x;         // [tokens, model_dim]
    F32 weight;    // [model_dim]
    F32 roots;     // [tokens]
    F32 grad_y;    // [tokens, model_dim]
    F32 residual;  // [tokens, model_dim]: the gradient that goes around the norm; may be grad_x
    F32 grad_x;    // [tokens, model_dim] out: residual + the norm's
    U32 status;    // [2]
    uint32_t tokens, model_dim;
};

// grad[c] += sum over tokens of grad_y[t, c] * x[t, c] / roots[t].
struct RmsNormWeightGrad {
    F32 x;       // [tokens, model_dim]
    F32 roots;   // [tokens]
    F32 grad_y;  // [tokens, model_dim]
    F32 grad;    // [model_dim] in and out
    U32 status;  // [2]
    uint32_t tokens, model_dim;
};

// u[t, c] = x[t, c] + sum over j = 0..min(width-1, positions[t]) of weight[c, j] * n[t - j, c].
struct CausalConv {
    F32 x;          // [tokens, model_dim]
    F32 n;          // [history + tokens, model_dim] operands; token t is row history + t
    F32 weight;     // [model_dim, width]
    U32 positions;  // [tokens]; at most history + t
    F32 u;          // [tokens, model_dim] out
    U32 status;     // [2]
    uint32_t tokens, model_dim, width, history;
};

// grad_n[t, c] = sum over j = 0..min(width-1, remaining[t]) of weight[c, j] * grad_u[t + j, c].
struct CausalConvBackward {
    F32 grad_u;     // [tokens, model_dim]
    F32 weight;     // [model_dim, width]
    U32 remaining;  // [tokens] tokens after t in its sequence
    F32 grad_n;     // [tokens, model_dim] out
    U32 status;     // [2]
    uint32_t tokens, model_dim, width;
    uint32_t pad;
};

// grad[c, j] += sum over tokens with positions[t] >= j of grad_u[t, c] * n[t - j, c].
struct CausalConvWeightGrad {
    F32 grad_u;     // [tokens, model_dim]
    F32 n;          // [tokens, model_dim] operands
    U32 positions;  // [tokens]
    F32 grad;       // [model_dim, width] in and out
    U32 status;     // [2]
    uint32_t tokens, model_dim, width;
    uint32_t pad;
};

// losses[t] = log(sum of exp(logits[t])) - logits[t, target]; grad = weights[t] * (softmax - one at the target).
struct CrossEntropy {
    F32 logits;       // [tokens, vocab]
    U32 targets;      // [tokens], below vocab; kAbsent: no loss, gradients 0
    F32 weights;      // [tokens]
    F32 grad_logits;  // [tokens, vocab] out, operands; may be logits; if constants.gradients
    F32 losses;       // [tokens] out, not weighted
    U32 status;       // [2]
    uint32_t tokens, vocab;
};

// sum[i] = a[i] + b[i]: a residual.
struct AddRows {
    F32 a;       // [count]
    F32 b;       // [count]
    F32 sum;     // [count] out; may be a or b
    U32 status;  // [2]
    uint32_t count;
    uint32_t pad;
};

#endif
