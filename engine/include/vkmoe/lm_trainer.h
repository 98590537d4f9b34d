// LmTrainer: trains a LanguageModel's parameters: next-token cross-entropy, AdamW, accumulation over micro-batches,
// clipping, schedules, dynamic loss scaling, recomputed activations, experts in pages. Same bits on every device.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "vkmoe/description.h"
#include "vkmoe/engine.h"
#include "vkmoe/lm_config.h"
#include "vkmoe/optimizer.h"
#include "vkmoe/paging.h"
#include "vkmoe/training_memory.h"
#include "vkmoe/training_paging.h"

namespace vkmoe {

namespace formats {
struct LmSource;
}

inline namespace v1 {

using Sequence = std::vector<uint32_t>;

struct LmTrainerOptions {
    Precision precision = Precision::exact;  // rounded: mixed precision, bf16 weight operands of the experts
    AdamwOptions adamw;
    Schedule schedule;     // of the learning rate
    float aux_weight = 0;  // of the balance loss (mean over tokens); the reference has none here
    float z_weight = 0;
    bool checkpoint_activations = false;  // keep the layers' inputs only and compute the rest again
    // The reference's mixed precision: gradients are multiplied by the loss scale, before the step they pass through
    // float16 (truncated); a step with one that is not finite is left out.
    bool loss_scaling = false;
    // With loss scaling, as the reference does it: after each micro-batch (of one sequence there) the sum of gradients
    // so far is multiplied, those of earlier micro-batches again. False: the whole sum once.
    bool rescale_sums = true;
    LossScalerOptions scaler;
    uint32_t max_tokens = 0;  // of a micro-batch that the caller will use; sizes the activations
    // Tokens of a micro-batch that are in the mixtures and in the head at once; 0: all, at most 12,000. Never changes
    // bits. In chunks a micro-batch may have 30,000 tokens.
    uint32_t max_chunk = 0;
    // All layers' routed experts in pages: same bits, in less memory. A step waits for each layer's routes once a
    // micro-batch, or once a chunk of it, and moves the pages of the experts that it uses; the budgets serve the layer
    // at work. With max_chunk an expert has two pages more. An error of reading or writing pages ends the trainer's
    // use.
    std::optional<TrainingPaging> paging = {};
    // The moments that this machine keeps, and the weights that its steps change: those of the others are for the
    // caller to bring. Not with paging (unsupported).
    Shard shard = {};
};

struct LmStep {
    double loss = 0;       // mean over sequences of the mean cross-entropy of their next tokens, in nats
    double grad_norm = 0;  // before clipping
    double learning_rate = 0;
    bool skipped = false;                 // a gradient was not finite (loss scaling): nothing changed
    std::vector<uint64_t> expert_tokens;  // [layers, experts]
    uint64_t tokens = 0, submits = 0, host_waits = 0;
    double seconds = 0;
};

// Everything that a run needs to go on as if it had not stopped, with the same options.
struct LmTrainerState {
    std::vector<float> parameters;     // canonical order of lm_config.h
    std::vector<float> first, second;  // moments, in the optimiser's order
    uint64_t step = 0;
    double loss_scale = 0;
    uint32_t loss_streak = 0;
};

class LmTrainer {
public:
    // Errors: as LanguageModel::create; out_of_memory says what the parts need and what would fit.
    static Result<LmTrainer> create(Engine& engine, const formats::LmSource& source, const LmTrainerOptions& options);
    LmTrainer(LmTrainer&&) noexcept;
    LmTrainer& operator=(LmTrainer&&) noexcept;
    ~LmTrainer();

    const LmConfig& config() const;
    // What a micro-batch of `tokens` takes: activations of T*(V + 4*D) words, of every layer (with recomputation: of
    // one layer, and T*D for each of the others) T*(3*D + 2) and those of LayerTrainer::memory, its backward part once.
    // In chunks of C: T*6*D, C*V, T*(3*D + 2) as before, LayerTrainer's of C tokens for the backward part and, with
    // recomputation, the forward part (else of all T), and twice the gradients of the embedding and of one layer.
    TrainingMemory memory(uint32_t tokens) const;
    std::optional<PagingReport> paging() const;  // since it was made; nothing without pages
    const Pager* pager() const;                  // null without pages
    std::span<const Visit> visits() const;       // with TrainingPaging::trace, since it was made
    uint64_t peakBytes() const;                  // that the engine's device has given out at once so far

    // One optimiser step over micro-batches of sequences (each of two tokens or more; shorter ones are passed over).
    // The gradient is the mean over all sequences of all micro-batches.
    Result<LmStep> step(std::span<const std::vector<Sequence>> micro_batches);

    // Adds one micro-batch's gradients to those of earlier calls, or, if it is the `first`, to zero; returns its loss
    // summed over sequences. gradients() are the sums so far, in canonical order. step() starts from zero, and what it
    // leaves there means nothing; after an error the sums mean nothing either: begin anew with `first`.
    Result<double> accumulate(std::span<const Sequence> sequences, bool first = true);
    Result<std::vector<float>> gradients();

    // Mean cross-entropy per predicted token, in nats.
    Result<double> evaluate(std::span<const Sequence> sequences);

    Result<std::vector<float>> parameters();  // canonical order
    Result<LmTrainerState> state();
    Result<void> restore(const LmTrainerState& state);

private:
    struct State;
    explicit LmTrainer(std::unique_ptr<State> state);
    std::unique_ptr<State> state_;
};

}  // namespace v1
}  // namespace vkmoe
