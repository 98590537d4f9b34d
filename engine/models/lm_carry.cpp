#include "engine/models/lm_carry.h"

#include "host/transfer.h"

namespace vkmoe {
inline namespace v1 {
namespace {

// Those of pages and the router: what BackwardPass sums.
size_t summedSlabs(const TrainableLayer& layer) { return layer.master().slabs.size() + 1; }

uint64_t rowBytes(const TrainableLayer& layer, uint32_t tokens) {
    return uint64_t{tokens} * layer.description().model_dim * 4;
}

}  // namespace

uint64_t LmCarry::bytesFor(const TrainableLayer& layer, const ParameterSet& set, size_t first_slab, uint64_t head_words,
                           uint32_t tokens) {
    uint64_t bytes = 2 * rowBytes(layer, tokens) + 8 * head_words;
    for (size_t slab = 0; slab < summedSlabs(layer); ++slab) bytes += 2 * set.grads(first_slab + slab).size();
    return bytes;
}

Result<LmCarry> LmCarry::create(Engine& engine, const TrainableLayer& layer, const ParameterSet& set, size_t first_slab,
                                uint64_t head_words, uint32_t tokens) {
    Device& device = engine.device();
    LmCarry carry;
    auto make = [&](Buffer& into, uint64_t bytes, const char* what) -> Result<void> {
        VKMOE_TRY(made, device.allocate(bytes, Memory::device, what));
        into = std::move(made);
        return {};
    };
    const char* const sums = "gradients on their way from chunk to chunk";
    VKMOE_CHECK(make(carry.grad_out, rowBytes(layer, tokens), "gradients of a layer's output"));
    VKMOE_CHECK(make(carry.grad_in, rowBytes(layer, tokens), "gradients of a mixture's input"));
    VKMOE_CHECK(make(carry.head, 8 * head_words, sums));
    VKMOE_CHECK(make(carry.carried, (uint64_t{layer.description().experts} + 1) * 4, "slots of earlier chunks"));
    const size_t count = summedSlabs(layer);
    for (size_t slab = 0; slab < 2 * count; ++slab)
        VKMOE_CHECK(make(carry.slabs.emplace_back(), set.grads(first_slab + slab % count).size(), sums));
    std::span<const Buffer> all(carry.slabs);
    VKMOE_TRY(totals, layer.pageTable(engine, all.first(count)));
    VKMOE_TRY(partials, layer.pageTable(engine, all.last(count)));
    const std::vector<uint64_t> ends{carry.head.address(), carry.head.address() + 4 * head_words};
    VKMOE_TRY(head, upload(device, ends, "tables of the head"));
    carry.totals = std::move(totals);
    carry.partials = std::move(partials);
    carry.head_table = std::move(head);
    return carry;
}

void LmCarry::begin(Commands& commands) const {
    commands.fill(carried, 0, carried.size(), 0);
    commands.barrier();
}

}  // namespace v1
}  // namespace vkmoe
