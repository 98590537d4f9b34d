// Threads of the tiled kernels of gradients.
#pragma once

#include "engine/ceil_div.h"
#include "shaders/constants.h"

namespace vkmoe {
inline namespace v1 {

constexpr uint32_t kTileOutputs = kPanel * kTilePanels;

// Of a tiled GEMM with `outputs` columns over `rows` rows of one dense matrix.
inline uint64_t denseThreads(uint32_t rows, uint32_t outputs) {
    return uint64_t{ceilDiv(rows, kTileRows)} * ceilDiv(outputs, kTileOutputs) * kWorkgroup;
}

// The same over the slots of all experts: as many tiles as there can be.
inline uint64_t slotThreads(uint32_t slots, uint32_t experts, uint32_t outputs) {
    return (uint64_t{slots} / kTileRows + experts) * ceilDiv(outputs, kTileOutputs) * kWorkgroup;
}

}  // namespace v1
}  // namespace vkmoe
