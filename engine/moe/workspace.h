// Workspace: the memory of one forward pass of up to `capacity` tokens, carved out of one device buffer.
#pragma once

#include "engine/moe/weights.h"

namespace vkmoe {
inline namespace v1 {

// What a workspace is for.
struct WorkspaceUse {
    bool totals = false;  // what the backward pass needs: expert_up's totals before the activation
};

// Host memory of one layer's part of a pass: forced routes on their way in, facts on their way out.
struct HostArea {
    const Buffer *upload = nullptr, *download = nullptr;
    uint64_t upload_at = 0, download_at = 0;  // bytes; Workspace's offsets count from here
};

struct Workspace {
    uint32_t capacity = 0;  // tokens
    uint32_t width = 0;     // experts a token may go to: top_k, more where forced routes are wider
    Buffer memory;

    // Byte offsets into `memory`. T: tokens, S: slots = T * width.
    uint64_t raw;                    // [T, model_dim] the caller's input
    uint64_t x, x_rounded;           // [T, model_dim] operands: as they are, and rounded for the experts
    uint64_t x_shared;               // [T, model_dim] rounded for the shared expert
    uint64_t logits, probabilities;  // [T, experts]
    uint64_t keys, scores;           // [T, experts] with capacity dispatch
    uint64_t selected, gates;        // [T, width]
    // The counting sort, see bin_tokens.comp; in one piece from offsets to tile_count, for copies.
    uint64_t counts, offsets, token_of, slot_of;
    uint64_t tiles, tile_count, up_groups, down_groups;
    uint64_t hidden, y;                           // [S, hidden_dim], [S, model_dim]
    uint64_t shared_hidden, shared_y;             // [T, shared_dim], [T, model_dim]
    uint64_t shared_gates;                        // [T]
    uint64_t out;                                 // [T, model_dim]
    uint64_t gate_total, up_total;                // [S, hidden_dim] with WorkspaceUse::totals
    uint64_t shared_gate_total, shared_up_total;  // [T, shared_dim]
    uint64_t energy, scale, quiet;                // [S] see slot_stats.comp
    uint64_t status;                              // [kStatusRows, 2]
    uint64_t counts_bytes = 0;

    // Byte offsets into HostArea::upload, and of all.
    uint64_t forced_selected, forced_gates, upload_bytes;

    // Byte offsets into HostArea::download, and of all.
    struct Download {
        uint64_t selected, gates, probabilities, slot_of, energy, scale, quiet, status, logits, ahead;
        uint64_t bytes;
    } back;

    static constexpr uint32_t kStatusRows = 16;

    // The most tokens whose tensors have 32-bit indices and whose slots bin_offsets can sort; 0: not even one.
    static uint32_t largestCapacity(const Description& description, uint32_t width);
    // The offsets alone, without memory.
    static Workspace layout(const Description& description, uint32_t width, uint32_t capacity, WorkspaceUse use = {});
    static Result<Workspace> create(Device& device, const Description& description, uint32_t width, uint32_t capacity,
                                    WorkspaceUse use = {});
    // Device memory that create() takes for `capacity` tokens.
    static uint64_t bytesFor(const Description& description, uint32_t width, uint32_t capacity, WorkspaceUse use = {});
};

}  // namespace v1
}  // namespace vkmoe
