// LmActivations: the memory of a language model's forward pass over up to `capacity` tokens, of which the mixtures and
// the head have `chunk` at once.
//
// For T tokens in chunks of C, D, H, E, k, V of the config, in f32: 2*T*D and C*V once, and of each kept layer
// T*(3*D + 2) and the Workspaces of its chunks. Kept are: all layers when training; the layers' inputs alone with
// recomputation (T*D each, the rest and the Workspace of one chunk once); the rows that convolutions look back at when
// generating.
#pragma once

#include <vector>

#include "engine/ceil_div.h"
#include "engine/moe/workspace.h"
#include "vkmoe/lm_config.h"

namespace vkmoe {
inline namespace v1 {

enum class LmKeep {
    nothing,  // inference
    inputs,   // training that computes a layer again before its backward pass
    all       // training
};

// Tokens of a pass that are together in the mixtures and in the head.
struct LmChunk {
    uint32_t index = 0, first = 0, tokens = 0;
    bool is_last = true;
};

struct LmActivations {
    struct Layer {
        uint64_t x;                         // [T, D] the layer's input
        uint64_t n;                         // [history + T, D] normed, what the convolution reads
        uint64_t conv_roots, u, moe_roots;  // [T], [T, D], [T]
        size_t workspace;                   // of `mixtures`: the first chunk's
        uint64_t status;                    // [chunks, kStatusRows, 2] of the trunk's kernels
    };

    uint32_t capacity = 0;
    uint32_t chunk = 0;    // tokens of a chunk, the last may have fewer
    uint32_t kept = 1;     // chunks of a layer that have Workspaces of their own: 1 or all
    uint32_t history = 0;  // rows before a pass's first token: conv_kernel - 1 (or 0) when generating, else 0
    Buffer memory, upload, download;
    std::vector<Layer> layers;
    std::vector<Workspace> mixtures;

    // Byte offsets into `memory`; what the host sends comes first, in one piece.
    uint64_t ids, positions, remaining, distinct, distinct_offsets, distinct_rows;  // [T] words, offsets T+1
    uint64_t targets;                                                               // see targetsAt
    uint64_t weights;                                                               // [T]
    uint64_t inputs_bytes = 0;                                                      // of all of these
    uint64_t last_x, head_x;  // [T, D] after the last layer: as it is, and as operands
    uint64_t logits;          // [chunk, V]; then their gradients
    uint64_t losses;          // [T]
    uint64_t shift;           // [history, D] on the way to the front

    static constexpr uint32_t kStatusRows = 8;  // of a layer and chunk; the last of all are the head's
    uint64_t head_status;                       // [chunks, kStatusRows, 2]

    // Byte offsets into `download`.
    struct Download {
        uint64_t losses, status, logits;
        uint64_t mixture_status, backward_status, offsets;  // [layers, chunks] of each
        uint64_t token_of, sorted_bytes;  // of a chunk: where in its part its slots' tokens are, and the part's length
        uint64_t routes, guess;           // [layers, T, top_k], [T, top_k] when generating
    } back;

    uint32_t chunks() const { return capacity <= chunk ? 1 : ceilDiv(capacity, chunk); }
    // The chunks of a pass over `tokens`, each but the last of `chunk`.
    std::vector<LmChunk> cut(uint32_t tokens) const;

    const Workspace& mixture(uint32_t layer, const LmChunk& c) const {
        return mixtures[layers[layer].workspace + (kept == 1 ? 0 : c.index)];
    }
    // Byte offsets into `memory` and `download`: a chunk's rows of [T, width]; its targets, which begin at a multiple
    // of 8; what is by layer and chunk.
    uint64_t rowsAt(uint64_t rows, const LmChunk& c, uint32_t width) const {
        return rows + uint64_t{c.first} * width * 4;
    }
    uint64_t targetsAt(const LmChunk& c) const { return targets + uint64_t{c.index} * ((chunk + 1) / 2) * 8; }
    uint64_t statusAt(uint64_t rows, const LmChunk& c) const { return rows + uint64_t{c.index} * 8 * kStatusRows; }
    uint64_t mixtureStatusAt(uint32_t layer, const LmChunk& c) const;
    uint64_t backwardStatusAt(uint32_t layer, const LmChunk& c) const;
    uint64_t offsetsAt(uint32_t layer, const LmChunk& c) const {  // the experts' offsets [experts + 1]
        return back.offsets + numberOf(layer, c) * back.sorted_bytes;
    }
    uint64_t tokensAt(uint32_t layer, const LmChunk& c) const {  // token_of [chunk * top_k], from the chunk's first on
        return offsetsAt(layer, c) + back.token_of;
    }

    static Result<LmActivations> create(Device& device, const LmConfig& config, const Description& mixture,
                                        uint32_t capacity, uint32_t chunk, LmKeep keep, bool generating);
    // What create() takes of the device and, for what goes up and comes back, of the host.
    static uint64_t bytesFor(const LmConfig& config, const Description& mixture, uint32_t capacity, uint32_t chunk,
                             LmKeep keep, bool generating);

private:
    uint64_t numberOf(uint32_t layer, const LmChunk& c) const { return uint64_t{layer} * chunks() + c.index; }
};

}  // namespace v1
}  // namespace vkmoe
