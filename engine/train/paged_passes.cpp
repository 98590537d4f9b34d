#include "engine/train/paged_passes.h"

#include "host/transfer.h"
#include "host/views.h"

namespace vkmoe {
inline namespace v1 {
namespace {

Result<void> send(Engine& engine, Commands& commands) {
    VKMOE_CHECK(engine.device().submit(commands));
    commands = {};
    return {};
}

// What follows the head, which has been submitted.
Result<void> expertsInPages(const TrainableLayer& layer, Commands& commands, const Workspace& w, uint32_t tokens,
                            std::span<const uint32_t> experts) {
    VKMOE_CHECK(
        layer.paged()->forward(experts, [&](Commands& wave) { layer.forward().recordExperts(wave, w, tokens); }));
    commands.barrier();
    layer.forward().recordTail(commands, w, tokens);
    return {};
}

}  // namespace

std::vector<uint32_t> withSlots(std::span<const uint32_t> offsets) {
    std::vector<uint32_t> experts;
    for (uint32_t e = 0; e + 1 < offsets.size(); ++e)
        if (offsets[e + 1] != offsets[e]) experts.push_back(e);
    return experts;
}

Result<std::vector<uint32_t>> forwardInPages(Engine& engine, const TrainableLayer& layer, Commands& commands,
                                             const Workspace& w, const ForwardPass::Batch& batch, const Buffer& host,
                                             uint64_t at) {
    const uint32_t entries = layer.description().experts + 1;
    layer.forward().recordHead(commands, w, batch);
    commands.barrier();
    commands.copy(w.memory, w.offsets, host, at, uint64_t{entries} * 4);
    VKMOE_CHECK(submitAndWait(engine.device(), commands));
    commands = {};
    auto experts = withSlots(view<uint32_t>(host, at, entries));
    VKMOE_CHECK(expertsInPages(layer, commands, w, batch.tokens, experts));
    layer.paged()->expectForward();
    return experts;
}

Result<void> forwardInPages(Engine& engine, const TrainableLayer& layer, Commands& commands, const Workspace& w,
                            const ForwardPass::Batch& batch, std::span<const uint32_t> experts) {
    layer.forward().recordHead(commands, w, batch);
    VKMOE_CHECK(send(engine, commands));
    return expertsInPages(layer, commands, w, batch.tokens, experts);
}

// An expert comes twice: between, the activation goes over the rows of all.
Result<void> backwardInPages(Engine& engine, const TrainableLayer& layer, const BackwardPass& pass,
                             const BackwardPass::Recording& r, std::span<const uint32_t> experts,
                             PagedTraining::Chunk chunk) {
    auto on = [&](Commands& wave) { return BackwardPass::Recording{wave, r.f, r.b, r.g, r.batch}; };
    pass.recordFirst(r);
    VKMOE_CHECK(send(engine, r.commands));
    VKMOE_CHECK(layer.paged()->backward(experts, chunk, true, [&](Commands& wave) { pass.recordDown(on(wave)); }));
    pass.recordBetween(r);
    VKMOE_CHECK(send(engine, r.commands));
    VKMOE_CHECK(
        layer.paged()->backward(experts, chunk, r.batch.input, [&](Commands& wave) { pass.recordUp(on(wave)); }));
    layer.paged()->expectBackward();
    pass.recordLast(r);
    return {};
}

}  // namespace v1
}  // namespace vkmoe
