#include "engine/train/rounded_weights.h"

namespace vkmoe {
inline namespace v1 {

Result<RoundedWeights> RoundedWeights::create(Engine& engine, const Weights& master) {
    RoundedWeights out(master);
    VKMOE_TRY(weights, Weights::allocateAs(engine, master, WeightFormat::bf16));
    out.weights_ = std::make_unique<Weights>(std::move(weights));
    VKMOE_TRY(round, engine.kernel(kernels().round_panels, {}));
    VKMOE_TRY(copy, engine.kernel(kernels().copy_words, {}));
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
    uint32_t pages = shared ? 1 : d.experts, first = shared ? d.experts : 0;
    Pages source = master_->table.at<Pages>(), target = weights_->table.at<Pages>();
    auto round = [&](uint32_t rows, uint32_t cols, uint32_t source_at, uint32_t target_at) {
        RoundPanels p{source, target, pages, first, rows, cols, source_at, target_at};
        commands.dispatch(*round_, p, packedWords(rows, cols, WeightFormat::bf16) * pages);
    };
    auto copy = [&](bool present, uint32_t count, uint32_t source_at, uint32_t target_at) {
        CopyWords p{source, target, pages, first, count, source_at, target_at, 0};
        if (present) commands.dispatch(*copy_, p, uint64_t{count} * pages);
    };
    if (d.gated()) round(F, D, from.gate_weight, to.gate_weight);
    round(F, D, from.up_weight, to.up_weight);
    round(D, F, from.down_weight, to.down_weight);
    copy(shared ? d.shared_gate_bias : d.gate_bias, F, from.gate_bias, to.gate_bias);
    copy(shared ? d.shared_up_bias : d.up_bias, F, from.up_bias, to.up_bias);
    copy(shared ? d.shared_down_bias : d.down_bias, D, from.down_bias, to.down_bias);
}

}  // namespace v1
}  // namespace vkmoe
