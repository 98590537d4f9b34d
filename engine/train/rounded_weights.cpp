#include "engine/train/rounded_weights.h"

#include "host/transfer.h"

namespace vkmoe {
inline namespace v1 {

Result<RoundedWeights> RoundedWeights::create(Engine& engine, const Weights& master) {
    RoundedWeights out(master);
    VKMOE_TRY(weights, Weights::allocateAs(engine, master, WeightFormat::bf16));
    out.weights_ = std::make_unique<Weights>(std::move(weights));
    VKMOE_TRY(round, engine.kernel(kernels().round_panels, {.weight_format = kBf16}));
    VKMOE_TRY(copy, engine.kernel(kernels().round_panels, {.weight_format = kF32}));
    out.round_ = round;
    out.copy_ = copy;
    return out;
}

void RoundedWeights::refresh(Commands& commands) const {
    refreshFamily(commands, false);
    if (master_->description.shared != Shared::none) refreshFamily(commands, true);
    commands.copy(master_->router, 0, weights_->router, 0, master_->router.size());
    commands.barrier();
}

// Matrices are rounded, biases copied.
void RoundedWeights::refreshFamily(Commands& commands, bool shared) const {
    const Description& d = master_->description;
    const PageLayout& from = shared ? master_->shared : master_->routed;
    const PageLayout& to = shared ? weights_->shared : weights_->routed;
    uint32_t F = shared ? d.shared_dim : d.hidden_dim, D = d.model_dim;
    auto run = [&](const Kernel* kernel, uint32_t rows, uint32_t cols, uint32_t source, uint32_t target) {
        uint32_t pages = shared ? 1 : d.experts;
        RoundPanels p{master_->table.at<Pages>(),
                      weights_->table.at<Pages>(),
                      pages,
                      shared ? d.experts : 0,
                      rows,
                      cols,
                      source,
                      target};
        uint64_t words = kernel == copy_ ? rows : packedWords(rows, cols, WeightFormat::bf16);
        commands.dispatch(*kernel, p, words * pages);
    };
    if (d.gated()) run(round_, F, D, from.gate_weight, to.gate_weight);
    run(round_, F, D, from.up_weight, to.up_weight);
    run(round_, D, F, from.down_weight, to.down_weight);
    if (shared ? d.shared_gate_bias : d.gate_bias) run(copy_, F, 1, from.gate_bias, to.gate_bias);
    if (shared ? d.shared_up_bias : d.up_bias) run(copy_, F, 1, from.up_bias, to.up_bias);
    if (shared ? d.shared_down_bias : d.down_bias) run(copy_, D, 1, from.down_bias, to.down_bias);
}

Result<Weights> roundedCopy(Engine& engine, const Weights& master) {
    VKMOE_TRY(rounded, RoundedWeights::create(engine, master));
    Commands commands;
    rounded.refresh(commands);
    VKMOE_CHECK(submitAndWait(engine.device(), commands));
    return std::move(*rounded.weights_);
}

}  // namespace v1
}  // namespace vkmoe
