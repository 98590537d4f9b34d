// BackwardWorkspace: the memory of one backward pass of up to `capacity` tokens, carved out of one device buffer.
// Layers of the same shape can share one: nothing in it outlives the pass.
#pragma once

#include "host/device.h"
#include "vkmoe/description.h"

namespace vkmoe {
inline namespace v1 {

struct BackwardWorkspace {
    uint32_t capacity = 0;  // tokens
    Buffer memory;

    // Byte offsets into `memory`. T: tokens, S: slots = T * top_k.
    uint64_t grad_out;                    // [T, model_dim] in: of the layer's output
    uint64_t grad_y, grad_shared_y;       // [S, model_dim], [T, model_dim]
    uint64_t grad_gates;                  // [T, top_k]
    uint64_t grad_shared_logits;          // [T]
    uint64_t grad_logits, grad_router_x;  // [T, experts], [T, model_dim]
    uint64_t grad_hidden;                 // [S, hidden_dim]; then, in its place, that of the gate's totals
    uint64_t grad_up;                     // [S, hidden_dim]
    uint64_t grad_x;                      // [S, model_dim]
    uint64_t grad_shared_hidden;          // [T, shared_dim], likewise
    uint64_t grad_shared_up;              // [T, shared_dim]
    uint64_t grad_shared_x;               // [T, model_dim]
    uint64_t grad_in;                     // [T, model_dim] out, if wanted: of the layer's input
    uint64_t status;                      // [kStatusRows, 2]

    static constexpr uint32_t kStatusRows = 16;

    static Result<BackwardWorkspace> create(Device& device, const Description& description, uint32_t capacity);
    // Device memory that create() takes.
    static uint64_t bytesFor(const Description& description, uint32_t capacity);
};

}  // namespace v1
}  // namespace vkmoe
