#include "engine/moe/workspace.h"

#include <algorithm>

#include "engine/moe/carver.h"

namespace vkmoe {
inline namespace v1 {
namespace {

// Sets the offsets; returns the bytes of `memory`.
uint64_t carve(Workspace& w, const Description& d, uint64_t T, WorkspaceUse use) {
    uint64_t S = T * w.width, chunks = (S + kBinChunk - 1) / kBinChunk;
    Carver m;
    w.raw = m.words(T * d.model_dim);
    w.x = m.words(T * d.model_dim);
    w.x_rounded = m.words(T * d.model_dim);
    w.x_shared = m.words(T * d.model_dim);
    w.logits = m.words(T * d.experts);
    w.probabilities = m.words(T * d.experts);
    uint64_t capacity_cells = d.dispatch == Dispatch::capacity ? T * d.experts : 0;
    w.keys = m.words(capacity_cells);
    w.scores = m.words(capacity_cells);
    w.selected = m.words(T * std::max(w.width, d.top_k));  // the router writes top_k, whatever is forced
    w.gates = m.words(T * std::max(w.width, d.top_k));
    w.counts = m.words(chunks * d.experts);
    w.counts_bytes = chunks * d.experts * 4;
    w.offsets = m.words(d.experts + 1);
    w.token_of = m.words(S);
    w.slot_of = m.words(S);
    w.tiles = m.words(2 * (S / kTileRows + d.experts));
    w.tile_count = m.words(1);
    w.up_groups = m.words(3);
    w.down_groups = m.words(3);
    w.hidden = m.words(S * d.hidden_dim);
    w.y = m.words(S * d.model_dim);
    w.shared_hidden = m.words(T * d.shared_dim);
    w.shared_y = m.words(T * d.model_dim);
    w.shared_gates = m.words(T);
    w.out = m.words(T * d.model_dim);
    uint64_t totals = use.totals ? 1 : 0, gates = use.totals && d.gated() ? 1 : 0;
    w.gate_total = m.words(gates * S * d.hidden_dim);
    w.up_total = m.words(totals * S * d.hidden_dim);
    w.shared_gate_total = m.words(gates * T * d.shared_dim);
    w.shared_up_total = m.words(totals * T * d.shared_dim);
    w.energy = m.words(S);
    w.scale = m.words(S);
    w.quiet = m.words(S);
    w.status = m.words(2 * Workspace::kStatusRows);
    Carver u, b;
    w.forced_selected = u.words(S);
    w.forced_gates = u.words(S);
    w.upload_bytes = u.bytes;
    w.back = {b.words(S),
              b.words(S),
              b.words(T * d.experts),
              b.words(S),
              b.words(S),
              b.words(S),
              b.words(S),
              b.words(2 * Workspace::kStatusRows),
              b.words(d.dispatch == Dispatch::fixed_budget ? T * d.experts : 0),
              b.words(T * std::max(w.width, d.top_k)),
              0};
    w.back.bytes = b.bytes;
    return m.bytes;
}

// The most slots bin_offsets can sort: no invocation may loop more than 32,768 times (it visits every chunk twice for
// each of its experts, every expert twice, and every tile of one expert).
uint64_t sortableSlots(uint32_t experts) {
    uint64_t per_thread = (uint64_t{experts} + kWorkgroup - 1) / kWorkgroup;  // experts of an invocation
    uint64_t per_chunk = 2 * per_thread + kBinChunk / kTileRows;
    return (32768 - 2 * uint64_t{experts} - 4 * per_thread) / per_chunk * kBinChunk;
}

}  // namespace

uint32_t Workspace::largestCapacity(const Description& d, uint32_t width) {
    uint64_t widest = std::max<uint64_t>({d.model_dim, d.hidden_dim, d.shared_dim, d.experts, kBinChunk});
    return uint32_t(std::min(sortableSlots(d.experts) / width, (uint64_t{1} << 31) / (widest * width)));
}

Workspace Workspace::layout(const Description& d, uint32_t width, uint32_t capacity, WorkspaceUse use) {
    Workspace w;
    w.capacity = capacity;
    w.width = width;
    carve(w, d, capacity, use);
    return w;
}

uint64_t Workspace::bytesFor(const Description& d, uint32_t width, uint32_t capacity, WorkspaceUse use) {
    Workspace w;
    w.width = width;
    return allocatedBytes(carve(w, d, capacity, use));
}

Result<Workspace> Workspace::create(Device& device, const Description& d, uint32_t width, uint32_t capacity,
                                    WorkspaceUse use) {
    Workspace w = layout(d, width, capacity, use);
    VKMOE_TRY(memory, device.allocate(bytesFor(d, width, capacity, use), Memory::device, "activations"));
    w.memory = std::move(memory);
    return w;
}

}  // namespace v1
}  // namespace vkmoe
