#include "engine/models/lm_carry.h"

#include "host/transfer.h"

namespace vkmoe {
inline namespace v1 {
namespace {

// Those of pages and the router: what BackwardPass sums.
size_t summedSlabs(const LmCarry::Model& model) { return model.layer ? model.layer->master().slabs.size() + 1 : 0; }

uint64_t rowBytes(const LmCarry::Model& model, uint32_t tokens) {
    return uint64_t{tokens} * model.trunk.config.model_dim * 4;
}

uint64_t slotBytes(const LmCarry::Model& model) { return (uint64_t{model.trunk.config.experts} + 1) * 4; }

}  // namespace

uint64_t LmCarry::bytesFor(const Model& model, uint32_t tokens) {
    uint64_t bytes = 2 * allocatedBytes(rowBytes(model, tokens)) + allocatedBytes(8 * model.trunk.embeddingWords()) +
                     allocatedBytes(slotBytes(model)) + allocatedBytes(2 * sizeof(uint64_t));
    for (size_t slab = 0; slab < summedSlabs(model); ++slab)
        bytes += 2 * model.set.grads(model.first_slab + slab).size();
    return model.layer ? bytes + 2 * allocatedBytes(model.layer->pageTableBytes()) : bytes;
}

Result<LmCarry> LmCarry::create(Engine& engine, const Model& model, uint32_t tokens) {
    Device& device = engine.device();
    LmCarry carry;
    auto make = [&](Buffer& into, uint64_t bytes, const char* what) -> Result<void> {
        VKMOE_TRY(made, device.allocate(bytes, Memory::device, what));
        into = std::move(made);
        return {};
    };
    const char* const sums = "gradients on their way from chunk to chunk";
    const uint64_t head_bytes = 4 * model.trunk.embeddingWords();
    VKMOE_CHECK(make(carry.grad_out, rowBytes(model, tokens), "gradients of a layer's output"));
    VKMOE_CHECK(make(carry.grad_in, rowBytes(model, tokens), "gradients of a mixture's input"));
    VKMOE_CHECK(make(carry.head, 2 * head_bytes, sums));
    VKMOE_CHECK(make(carry.carried, slotBytes(model), "slots of earlier chunks"));
    const std::vector<uint64_t> ends{carry.head.address(), carry.head.address() + head_bytes};
    VKMOE_TRY(head, upload(device, ends, "tables of the head"));
    carry.head_table = std::move(head);
    if (!model.layer) return carry;
    const size_t count = summedSlabs(model);
    for (size_t slab = 0; slab < 2 * count; ++slab)
        VKMOE_CHECK(make(carry.slabs.emplace_back(), model.set.grads(model.first_slab + slab % count).size(), sums));
    std::span<const Buffer> all(carry.slabs);
    VKMOE_TRY(totals, model.layer->pageTable(engine, all.first(count)));
    VKMOE_TRY(partials, model.layer->pageTable(engine, all.last(count)));
    carry.totals = std::move(totals);
    carry.partials = std::move(partials);
    return carry;
}

void LmCarry::begin(Commands& commands) const {
    commands.fill(carried, 0, carried.size(), 0);
    commands.barrier();
}

}  // namespace v1
}  // namespace vkmoe
