#include "engine/train/backward_workspace.h"

#include "engine/moe/carver.h"

namespace vkmoe {
inline namespace v1 {
namespace {

// Bytes of device memory.
uint64_t carve(BackwardWorkspace& w, const Description& d, uint64_t T) {
    uint64_t S = T * d.top_k, with_shared = d.shared == Shared::none ? 0 : 1;
    Carver m;
    w.grad_out = m.words(T * d.model_dim);
    w.grad_y = m.words(S * d.model_dim);
    w.grad_shared_y = m.words(with_shared * T * d.model_dim);
    w.grad_gates = m.words(S);
    w.grad_shared_logits = m.words(T);
    w.grad_logits = m.words(T * d.experts);
    w.grad_router_x = m.words(T * d.model_dim);
    w.grad_hidden = m.words(S * d.hidden_dim);
    w.grad_up = m.words(S * d.hidden_dim);
    w.grad_x = m.words(S * d.model_dim);
    w.grad_shared_hidden = m.words(T * d.shared_dim);
    w.grad_shared_up = m.words(T * d.shared_dim);
    w.grad_shared_x = m.words(with_shared * T * d.model_dim);
    w.grad_in = m.words(T * d.model_dim);
    w.status = m.words(2 * BackwardWorkspace::kStatusRows);
    return m.bytes;
}

}  // namespace

uint64_t BackwardWorkspace::bytesFor(const Description& description, uint32_t capacity) {
    BackwardWorkspace probe;
    return allocatedBytes(carve(probe, description, capacity));
}

Result<BackwardWorkspace> BackwardWorkspace::create(Device& device, const Description& description, uint32_t capacity) {
    BackwardWorkspace w;
    w.capacity = capacity;
    uint64_t bytes = carve(w, description, capacity);
    VKMOE_TRY(memory, device.allocate(bytes, Memory::device, "gradients of activations"));
    w.memory = std::move(memory);
    return w;
}

}  // namespace v1
}  // namespace vkmoe
