// A layer's two passes with its routed experts in pages: the host learns who is chosen, and the experts come in waves.
//
// Each goes on from what `commands` holds, which it submits as it goes, and leaves there what is still to be submitted.
#pragma once

#include "engine/train/trainable_layer.h"

namespace vkmoe {
inline namespace v1 {

// Experts with slots, ascending, from offsets [experts + 1].
std::vector<uint32_t> withSlots(std::span<const uint32_t> offsets);

// From Workspace::raw to Workspace::out; waits once, for Workspace::offsets, which come to byte `at` of `host`. Returns
// the experts with slots.
Result<std::vector<uint32_t>> forwardInPages(Engine& engine, const TrainableLayer& layer, Commands& commands,
                                             const Workspace& workspace, const ForwardPass::Batch& batch,
                                             const Buffer& host, uint64_t at);

// The same for tokens whose experts are known.
Result<void> forwardInPages(Engine& engine, const TrainableLayer& layer, Commands& commands, const Workspace& workspace,
                            const ForwardPass::Batch& batch, std::span<const uint32_t> experts);

// `pass` over the experts with slots; after the last of several chunks, over those of all chunks.
Result<void> backwardInPages(Engine& engine, const TrainableLayer& layer, const BackwardPass& pass,
                             const BackwardPass::Recording& recording, std::span<const uint32_t> experts,
                             PagedTraining::Chunk chunk = PagedTraining::Chunk::whole);

}  // namespace v1
}  // namespace vkmoe
