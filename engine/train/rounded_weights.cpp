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
    const Description& d = master_->description;
    if (!master_->paged) refreshPages(commands, false, 0, d.experts);
    if (d.shared != Shared::none) refreshPages(commands, true, master_->sharedPage(), 1);
    commands.copy(master_->router, 0, weights_->router, 0, master_->router.size());
    commands.barrier();
}

void RoundedWeights::refreshExpert(Commands& commands, uint32_t expert) const {
    refreshPages(commands, false, expert, 1);
}

// Matrices are rounded, biases copied.
void RoundedWeights::refreshPages(Commands& commands, bool shared, uint32_t first, uint32_t pages) const {
    const Description& d = master_->description;
    const PageLayout& from = shared ? master_->shared : master_->routed;
    const PageLayout& to = shared ? weights_->shared : weights_->routed;
    uint32_t F = shared ? d.shared_dim : d.hidden_dim, D = d.model_dim;
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
