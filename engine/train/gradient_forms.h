// Which form of the gradients' tiled kernels a device runs, and the threads of their dispatches: the choice never
// changes the bits.
#pragma once

#include "vkmoe/engine.h"
#include "vkmoe/kernels.h"

namespace vkmoe {
inline namespace v1 {

// Builds (and, at first use, probes) a gradient of rows, sums over `terms` rows of a matrix: one of
// expert_down_backward, expert_up_backward and router_logits_backward, or on software drivers its lanes form.
Result<const Kernel*> rowGradient(Engine& engine, const KernelCode& code, Constants constants, uint32_t terms);

// The same of expert_weight_grad, of a matrix [rows, cols].
Result<const Kernel*> weightGradient(Engine& engine, Constants constants, uint32_t rows, uint32_t cols);

// Threads over `rows` rows of one dense matrix with `outputs` columns.
uint64_t denseThreads(const Kernel& kernel, uint32_t rows, uint32_t outputs);

// The same over the slots of all experts: as many tiles as there can be.
uint64_t slotThreads(const Kernel& kernel, uint32_t slots, uint32_t experts, uint32_t outputs);

}  // namespace v1
}  // namespace vkmoe
