// LmTrainer's steps: micro-batches forward and backward, and what ends a step.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "engine/models/lm_trainer_state.h"
#include "engine/turn.h"
#include "host/transfer.h"
#include "host/views.h"
#include "shaders/exact_math.h"

namespace vkmoe {
inline namespace v1 {
namespace {

using Clock = std::chrono::steady_clock;

uint64_t tokensOf(std::span<const Sequence> sequences) {
    uint64_t tokens = 0;
    for (const Sequence& sequence : sequences) tokens += sequence.size() < 2 ? 0 : sequence.size();
    return tokens;
}

}  // namespace

// ---- one micro-batch ------------------------------------------------------------------------------------------------

Result<LmInputs> LmTrainer::State::inputsOf(std::span<const Sequence> sequences) const {
    LmInputs inputs;
    for (size_t s = 0; s < sequences.size(); ++s) {
        for (size_t i = 0; i < sequences[s].size(); ++i)
            if (sequences[s][i] >= trunk.config.vocab_size)
                return Error{ErrorCode::bad_input, fmt::format("sequence {}: token {} is {}, but the vocabulary has {}",
                                                               s, i, sequences[s][i], trunk.config.vocab_size)};
        if (sequences[s].size() >= 2) inputs.add(sequences[s]);
    }
    inputs.sortIds();
    return inputs;
}

// The auxiliary losses are means over the micro-batch's tokens; gradients are divided by all sequences later.
LmPass::Gradients LmTrainer::State::where(uint32_t sequences, uint32_t tokens) const {
    uint64_t rows = uint64_t{activations->capacity} * trunk.config.model_dim * 4;
    LmPass::Gradients g;
    g.trunk_table = &trunk_table;
    g.trunk = all->set().grads(0).address();
    g.workspace = &*backward;
    g.carry = carryOf(tokens);
    g.mixtures = gradients;
    g.grad_u = scratch.address();
    g.grad_n = scratch.address() + rows;
    double share = double(sequences) / double(tokens);
    g.balance_scale = float(double(options.aux_weight) * trunk.config.experts * share);
    g.z_scale = float(2 * double(options.z_weight) * share);
    g.counts = counts.address();
    return g;
}

Result<void> LmTrainer::State::recordPasses(Commands& commands, const LmInputs& inputs, uint32_t sequences) {
    const LmActivations& a = *activations;
    uint32_t tokens = inputs.tokens();
    const LmPass::Loads counted = loads();
    const LmPass::Gradients gradients_at = where(sequences, tokens);
    VKMOE_CHECK(pass->forward(commands, a, mixtures->forward(a), tokens, &counted));
    pass->losses(commands, a, tokens, &gradients_at);
    LmPass::Mixture again;
    if (options.checkpoint_activations) again = mixtures->again(a);
    VKMOE_TRY(mixtures_backward, mixtures->backward(gradients_at.carry, fresh));
    VKMOE_CHECK(pass->backward(commands, a, again, mixtures_backward, gradients_at, inputs));
    if (options.loss_scaling && options.rescale_sums)
        VKMOE_CHECK(all->scaleGradients(commands, *scale, float(scaler.scale()), 1.0f));
    pass->downloadResults(commands, a, tokens);
    return {};
}

Result<double> LmTrainer::State::microBatch(std::span<const Sequence> sequences, double grad_scale, bool last,
                                            LmStep& step) {
    VKMOE_TRY(inputs, inputsOf(sequences));
    uint32_t tokens = inputs.tokens();
    VKMOE_CHECK(ensureActivations(std::max(tokens, 1u)));
    LmActivations& a = *activations;
    pass->fill(a, inputs);
    Commands commands;
    const bool scaled_before = accumulates && options.loss_scaling && options.rescale_sums;
    if (!accumulates) VKMOE_CHECK(all->zeroGrads(commands, !fresh || tokens == 0));
    commands.fill(counts, 0, counts.size(), 0);
    auto used =
        uint32_t(std::count_if(sequences.begin(), sequences.end(), [](const auto& s) { return s.size() >= 2; }));
    if (tokens != 0) VKMOE_CHECK(recordPasses(commands, inputs, used));
    if (last && options.loss_scaling) {
        if (!options.rescale_sums) VKMOE_CHECK(all->scaleGradients(commands, *scale, float(scaler.scale()), 1.0f));
        VKMOE_CHECK(all->scaleGradients(commands, *halve, float(grad_scale), float(1.0 / scaler.scale())));
    }
    if (last) all->set().squares(commands, squaresScale(grad_scale));
    VKMOE_CHECK(submitAndWait(engine->device(), commands));
    accumulates = true;
    if (tokens == 0) return 0.0;
    VKMOE_CHECK(pass->check(a, tokens, mixtures->forwards()));
    VKMOE_CHECK(checkGradients(pass->checkBackward(a, tokens, mixtures->backwards()), scaled_before));
    double loss = 0;
    auto losses = view<float>(a.download, a.back.losses, tokens);
    for (uint32_t t = 0; t < tokens; ++t) loss += double(losses[t]) * double(inputs.weights[t]);
    countTokens(step, tokens);
    step.tokens += tokens;
    return loss;
}

// A sum that was scaled before may be too large now: then its step is left out.
Result<void> LmTrainer::State::checkGradients(Result<void> checked, bool scaled_before) {
    if (checked || !scaled_before || checked.error().code != ErrorCode::bad_input) return checked;
    overflow = std::move(checked).error();
    return {};
}

void LmTrainer::State::countTokens(LmStep& step, uint32_t tokens) const {
    const uint32_t experts = trunk.config.experts;
    step.expert_tokens.resize(size_t{mixtures->count()} * experts);
    const LmActivations& a = *activations;
    for (uint32_t l = 0; l < mixtures->count(); ++l)
        for (const LmChunk& chunk : a.cut(tokens)) {
            auto offsets = view<uint32_t>(a.download, a.offsetsAt(l, chunk), size_t{experts} + 1);
            for (uint32_t e = 0; e < experts; ++e) step.expert_tokens[l * experts + e] += offsets[e + 1] - offsets[e];
        }
}

// ---- steps ----------------------------------------------------------------------------------------------------------

Result<void> LmTrainer::State::finishStep(double grad_scale, LmStep& step) {
    VKMOE_TRY(norm, all->gradNorm(squaresScale(grad_scale)));
    if (overflow && scaler.scale() <= options.scaler.minimum) return *overflow;
    bool finite = norm.finite() && !overflow;
    if (!finite && !options.loss_scaling) return Error{ErrorCode::bad_input, norm.fault};
    step.skipped = options.loss_scaling && !scaler.update(finite);
    if (step.skipped) return {};
    step.grad_norm = norm.norm;
    step.learning_rate = options.adamw.learning_rate * rateFraction(options.schedule, all->set().step() + 1);
    return all->adamw(options.adamw, step.learning_rate, options.loss_scaling ? 1.0 : grad_scale,
                      clipFactor(options.adamw, norm.norm), [&](Commands& commands) {
                          for (uint32_t l = 0; l < mixtures->count(); ++l) mixtures->layer(l).refresh(commands);
                      });
}

// Before memory goes to activations, and before anything is timed.
Result<void> LmTrainer::State::begin(bool alone) {
    fresh = alone;
    accumulates = false;
    overflow.reset();
    VKMOE_CHECK(mixtures->prepare(false, fresh));
    return carry ? mixtures->prepare(true, fresh) : Result<void>();
}

Result<LmStep> LmTrainer::step(std::span<const std::vector<Sequence>> micro_batches) {
    State& s = *state_;
    Turn turn(*s.engine);
    LmStep step;
    uint64_t sequences = 0;
    for (const auto& batch : micro_batches)
        sequences += uint64_t(std::count_if(batch.begin(), batch.end(), [](const auto& q) { return q.size() >= 2; }));
    if (sequences == 0) return Error{ErrorCode::bad_input, "a step has no sequence of two tokens or more"};
    VKMOE_CHECK(s.begin(micro_batches.size() == 1));
    DeviceCounters before = s.engine->device().counters();
    auto start = Clock::now();
    double grad_scale = 1.0 / double(sequences);
    for (size_t i = 0; i < micro_batches.size(); ++i) {
        VKMOE_TRY(loss, s.microBatch(micro_batches[i], grad_scale, i + 1 == micro_batches.size(), step));
        step.loss += loss * grad_scale;
    }
    VKMOE_CHECK(s.finishStep(grad_scale, step));
    DeviceCounters after = s.engine->device().counters();
    step.submits = after.submits - before.submits;
    step.host_waits = after.waits - before.waits;
    step.seconds = std::chrono::duration<double>(Clock::now() - start).count();
    return step;
}

Result<double> LmTrainer::accumulate(std::span<const Sequence> sequences, bool first) {
    Turn turn(*state_->engine);
    LmStep step;
    VKMOE_CHECK(state_->begin(false));
    state_->accumulates = !first;
    VKMOE_TRY(loss, state_->microBatch(sequences, 1, false, step));
    if (state_->overflow) return *state_->overflow;
    return loss;
}

Result<double> LmTrainer::evaluate(std::span<const Sequence> sequences) {
    State& s = *state_;
    Turn turn(*s.engine);
    double sum = 0, predicted = 0;
    for (size_t first = 0; first < sequences.size();) {
        size_t end = first + 1;
        uint64_t most = s.activations ? s.activations->capacity : 512;
        while (end < sequences.size() && tokensOf(sequences.subspan(first, end + 1 - first)) <= most) ++end;
        VKMOE_TRY(inputs, s.inputsOf(sequences.subspan(first, end - first)));
        first = end;
        if (inputs.tokens() == 0) continue;
        VKMOE_CHECK(s.ensureActivations(inputs.tokens()));
        LmActivations& a = *s.activations;
        s.pass->fill(a, inputs);
        Commands commands;
        VKMOE_CHECK(s.pass->forward(commands, a, s.mixtures->forward(a), inputs.tokens()));
        s.pass->losses(commands, a, inputs.tokens(), nullptr);
        s.pass->downloadResults(commands, a, inputs.tokens());
        VKMOE_CHECK(submitAndWait(s.engine->device(), commands));
        VKMOE_CHECK(s.pass->check(a, inputs.tokens(), s.mixtures->forwards()));
        auto losses = view<float>(a.download, a.back.losses, inputs.tokens());
        for (uint32_t t = 0; t < inputs.tokens(); ++t) {
            if (inputs.targets[t] == kAbsent) continue;
            sum += double(losses[t]);
            predicted += 1;
        }
    }
    return predicted == 0 ? 0.0 : sum / predicted;
}

}  // namespace v1
}  // namespace vkmoe
