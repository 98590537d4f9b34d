// LmActivations: the memory of a language model's forward pass over up to `capacity` tokens.
//
// For T tokens, D, H, E, k, V of the config, in f32: T*(V + 3*D) once, and of each kept layer T*(4*D + 2) and a
// Workspace. Kept are: all layers when training; the layers' inputs alone with recomputation (T*D each, the rest once);
// the rows that convolutions look back at when generating.
#pragma once

#include <vector>

#include "engine/moe/workspace.h"
#include "vkmoe/lm_config.h"

namespace vkmoe {
inline namespace v1 {

enum class LmKeep {
    nothing,  // inference
    inputs,   // training that computes a layer again before its backward pass
    all       // training
};

struct LmActivations {
    struct Layer {
        uint64_t x;                         // [T, D] the layer's input
        uint64_t n;                         // [history + T, D] normed, what the convolution reads
        uint64_t conv_roots, u, moe_roots;  // [T], [T, D], [T]
        size_t workspace;                   // of `mixtures`
        uint64_t status;                    // [kStatusRows, 2] of the trunk's kernels
    };

    uint32_t capacity = 0;
    uint32_t history = 0;  // rows before a pass's first token: conv_kernel - 1 (or 0) when generating, else 0
    Buffer memory, upload, download;
    std::vector<Layer> layers;
    std::vector<Workspace> mixtures;

    // Byte offsets into `memory`; what the host sends comes first, in one piece.
    uint64_t ids, positions, remaining, targets, distinct, distinct_offsets, distinct_rows;  // [T] words, offsets T+1
    uint64_t weights;                                                                        // [T]
    uint64_t inputs_bytes = 0;                                                               // of all of these
    uint64_t last_x, head_x;  // [T, D] after the last layer: as it is, and as operands
    uint64_t logits;          // [T, V]; then their gradients
    uint64_t losses;          // [T]
    uint64_t shift;           // [history, D] on the way to the front

    static constexpr uint32_t kStatusRows = 8;  // of a layer; the last of all are the head's
    uint64_t head_status;

    // Byte offsets into `download`.
    struct Download {
        uint64_t losses, status, mixture_status, backward_status, offsets, logits;
        uint64_t token_of, sorted_bytes;  // of a layer: where in its part its slots' tokens are, and the part's length
        uint64_t routes;                  // [layers, T, top_k] when generating
    } back;

    // Where in `download` a layer's mixture has its experts' offsets [experts + 1], and token_of [T * top_k].
    uint64_t offsetsAt(uint32_t layer) const { return back.offsets + layer * back.sorted_bytes; }
    uint64_t tokensAt(uint32_t layer) const { return offsetsAt(layer) + back.token_of; }

    static Result<LmActivations> create(Device& device, const LmConfig& config, const Description& mixture,
                                        uint32_t capacity, LmKeep keep, bool generating);
    // Device memory that create() takes.
    static uint64_t bytesFor(const LmConfig& config, const Description& mixture, uint32_t capacity, LmKeep keep,
                             bool generating);
};

}  // namespace v1
}  // namespace vkmoe
