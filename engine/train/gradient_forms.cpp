#include "engine/train/gradient_forms.h"

#include "engine/ceil_div.h"
#include "engine/moe/expert_forms.h"

namespace vkmoe {
inline namespace v1 {
namespace {

const KernelCode& lanesOf(const KernelCode& code) {
    const Kernels& k = kernels();
    if (&code == &k.expert_down_backward) return k.expert_down_backward_lanes;
    if (&code == &k.expert_up_backward) return k.expert_up_backward_lanes;
    return k.router_logits_backward_lanes;
}

// Rows at a time. The more, the fewer loads: on lavapipe 22.3 a weight's gradient reaches 2.9 GFLOP/s with 8, 5.6
// with 32. But it takes that driver two seconds to compile 32, twelve with sums to carry, and half a one to compile 8:
// not worth it where sums are few.
constexpr uint32_t kFew = 128;

}  // namespace

Result<const Kernel*> rowGradient(Engine& engine, const KernelCode& code, Constants constants, uint32_t terms) {
    const uint32_t height = terms < kFew ? 4 : kLanesRows;
    if (!usesLanes(engine.device().info(), {terms}) || !withinTrips(height, kTileRows, terms))
        return engine.kernel(code, constants);
    constants.lanes = subgroupLanes(engine.device().info().limits);
    constants.tile_rows = height;
    return engine.kernel(lanesOf(code), constants);
}

Result<const Kernel*> weightGradient(Engine& engine, Constants constants, uint32_t rows, uint32_t cols) {
    if (!usesLanes(engine.device().info(), {rows, cols})) return engine.kernel(kernels().expert_weight_grad, constants);
    constants.lanes = subgroupLanes(engine.device().info().limits);
    constants.tile_rows = rows < kFew || constants.carry != 0 ? 8 : kTileRows;
    return engine.kernel(kernels().expert_weight_grad_lanes, constants);
}

uint64_t denseThreads(const Kernel& kernel, uint32_t rows, uint32_t outputs) {
    return uint64_t{ceilDiv(rows, kTileRows)} * ceilDiv(outputs, tileOutputs(*kernel.code)) * kWorkgroup;
}

uint64_t slotThreads(const Kernel& kernel, uint32_t slots, uint32_t experts, uint32_t outputs) {
    return (uint64_t{slots} / kTileRows + experts) * ceilDiv(outputs, tileOutputs(*kernel.code)) * kWorkgroup;
}

}  // namespace v1
}  // namespace vkmoe
