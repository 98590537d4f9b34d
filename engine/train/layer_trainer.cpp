#include "vkmoe/layer_trainer.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <optional>

#include "engine/train/layer_batch.h"
#include "engine/train/trained_parameters.h"
#include "engine/turn.h"
#include "host/transfer.h"

namespace vkmoe {
inline namespace v1 {
namespace {

using Clock = std::chrono::steady_clock;

Result<uint64_t> samplesOf(size_t values, uint32_t model_dim, const char* what) {
    if (values % model_dim == 0) return uint64_t{values / model_dim};
    return Error{ErrorCode::bad_input,
                 fmt::format("the {} have {} values, no whole number of rows of {} values", what, values, model_dim)};
}

}  // namespace

struct LayerTrainer::State {
    Engine* engine;
    LayerTrainerOptions options;
    std::unique_ptr<TrainableLayer> layer;
    std::unique_ptr<PagedTraining> paged;  // null: the experts are the set's
    std::optional<TrainedParameters> parameters;
    std::optional<LayerBatch> batch;
    uint64_t samples_seen = 0;  // in all epochs: the noise on the logits differs from one to the next

    Result<void> build(const formats::LayerSource& source);
    Result<void> step(std::span<const float> x, std::span<const float> targets, EpochResult& result);
    float balanceScale(uint64_t tokens) const;
    void report(const BatchResult& batch_result, uint64_t tokens, EpochResult& result) const;
};

LayerTrainer::LayerTrainer(std::unique_ptr<State> state) : state_(std::move(state)) {}
LayerTrainer::LayerTrainer(LayerTrainer&&) noexcept = default;
LayerTrainer& LayerTrainer::operator=(LayerTrainer&& other) noexcept {
    std::swap(state_, other.state_);
    return *this;
}
LayerTrainer::~LayerTrainer() {
    if (!state_) return;
    Turn turn(*state_->engine);
    state_.reset();
}

const Description& LayerTrainer::description() const { return state_->layer->description(); }

std::optional<PagingReport> LayerTrainer::paging() const {
    if (!state_->paged) return std::nullopt;
    return state_->paged->report();
}

const Pager* LayerTrainer::pager() const { return state_->paged ? &state_->paged->pager() : nullptr; }

std::span<const Visit> LayerTrainer::visits() const {
    if (!state_->paged) return {};
    return state_->paged->visits();
}

uint64_t LayerTrainer::samplesSeen() const { return state_->samples_seen; }

uint64_t LayerTrainer::peakBytes() const { return state_->engine->device().ledger().peak(); }

TrainingMemory LayerTrainer::memory(uint32_t tokens) const {
    const State& s = *state_;
    return {.weights = s.layer->weightBytes(),
            .gradients = s.parameters->gradientBytes(),
            .moments = s.parameters->set().stateBytes(),
            .activations = s.batch->bytesFor(tokens),
            .pages = s.paged ? s.paged->pager().bytes() : 0};
}

Result<LayerTrainer> LayerTrainer::create(Engine& engine, const formats::LayerSource& source,
                                          const LayerTrainerOptions& options) {
    VKMOE_CHECK(validate(options.adamw));
    VKMOE_CHECK(checkWeight("aux_weight", options.aux_weight));
    VKMOE_CHECK(checkWeight("z_weight", options.z_weight));
    Turn turn(engine);
    auto state = std::make_unique<State>();
    state->engine = &engine;
    state->options = options;
    VKMOE_CHECK(state->build(source));
    return LayerTrainer(std::move(state));
}

Result<void> LayerTrainer::State::build(const formats::LayerSource& source) {
    VKMOE_TRY(made, TrainableLayer::create(*engine, source, options.precision, options.paging.has_value()));
    layer = std::move(made);
    if (options.paging) {
        auto from = [&](uint32_t) -> Result<formats::LayerSource> { return source; };
        VKMOE_TRY(pages, PagedTraining::create(*engine, {layer->member("")}, from, *options.paging, true));
        paged = std::move(pages);
        layer->page(*paged, 0);
    }
    uint32_t position = 0;
    VKMOE_TRY(set, ParameterSet::create(*engine, layer->slabs("", position)));
    parameters.emplace(*engine, std::move(set), std::vector<size_t>{0}, paged.get());
    VKMOE_TRY(batches, LayerBatch::create(*engine, *layer, parameters->set(), options.max_chunk));
    batch = std::move(batches);
    return {};
}

// The reference divides by the batch here, and with all gradients again.
float LayerTrainer::State::balanceScale(uint64_t tokens) const {
    double scale = double(options.aux_weight) * layer->description().experts;
    return float(options.aux_scale == AuxScale::reference ? scale / double(tokens) : scale);
}

Result<void> LayerTrainer::State::step(std::span<const float> x, std::span<const float> targets, EpochResult& result) {
    uint64_t tokens = x.size() / layer->description().model_dim;
    BatchWork work{.x = x, .upstream = targets, .noise = true, .first_token = samples_seen};
    work.balance_scale = balanceScale(tokens);
    work.z_scale = float(2 * double(options.z_weight));
    auto scale = float(1.0 / double(tokens));
    Commands before;
    VKMOE_CHECK(parameters->zeroGrads(before, false));
    work.begin = [&](Commands& commands) { commands.append(before); };
    work.finish = [&](Commands& commands) { parameters->set().squares(commands, scale); };
    VKMOE_TRY(done, batch->run(work));
    VKMOE_TRY(norm, parameters->gradNorm(scale));
    if (!norm.finite()) return Error{ErrorCode::bad_input, norm.fault};
    VKMOE_CHECK(parameters->adamw(options.adamw, options.adamw.learning_rate, 1.0 / double(tokens),
                                  clipFactor(options.adamw, norm.norm),
                                  [&](Commands& commands) { layer->refresh(commands); }));
    samples_seen += tokens;
    report(done, tokens, result);
    return {};
}

void LayerTrainer::State::report(const BatchResult& done, uint64_t tokens, EpochResult& result) const {
    const uint32_t experts = layer->description().experts;
    double assignments = std::max(double(tokens) * layer->description().top_k, 1.0), aux = 0;
    for (uint32_t e = 0; e < experts; ++e) {
        result.expert_tokens[e] += done.tokens[e];
        aux += double(float(double(done.tokens[e]) / assignments)) * (done.probabilities[e] / double(tokens));
    }
    result.loss += done.loss;
    result.aux_loss = experts * aux;
    ++result.steps;
}

Result<LayerGradientResult> LayerTrainer::backward(std::span<const float> x, std::span<const float> grad_out) {
    State& s = *state_;
    Turn turn(*s.engine);
    const Description& d = description();
    VKMOE_TRY(tokens, samplesOf(x.size(), d.model_dim, "inputs"));
    VKMOE_TRY(gradient_rows, samplesOf(grad_out.size(), d.model_dim, "output gradients"));
    if (tokens != gradient_rows)
        return Error{ErrorCode::bad_input,
                     fmt::format("there are {} inputs, but {} output gradients", tokens, gradient_rows)};
    Commands commands;
    VKMOE_CHECK(s.parameters->zeroGrads(commands, tokens == 0));
    VKMOE_CHECK(submitAndWait(s.engine->device(), commands));
    LayerGradientResult result;
    if (tokens != 0) {
        VKMOE_TRY(done, s.batch->run({.x = x, .upstream = grad_out, .squared_error = false, .apart = true}));
        result.input = std::move(done.grad_in);
        result.forward_seconds = done.forward_seconds;
        result.backward_seconds = done.backward_seconds;
    }
    VKMOE_TRY(memory, s.layer->downloadGradients(*s.engine, s.parameters->set(), 0));
    result.gradients = readBack(s.layer->master(), memory, "gradients", true);
    return result;
}

Result<EpochResult> LayerTrainer::epoch(std::span<const float> inputs, std::span<const float> targets,
                                        const EpochOptions& options) {
    State& s = *state_;
    Turn turn(*s.engine);
    const uint32_t D = description().model_dim;
    VKMOE_TRY(samples, samplesOf(inputs.size(), D, "inputs"));
    VKMOE_TRY(target_rows, samplesOf(targets.size(), D, "targets"));
    if (samples != target_rows)
        return Error{ErrorCode::bad_input, fmt::format("there are {} inputs, but {} targets", samples, target_rows)};
    EpochResult result;
    result.expert_tokens.resize(description().experts);
    DeviceCounters before = s.engine->device().counters();
    auto start = Clock::now();
    uint64_t batch = options.batch_size == 0 ? samples : options.batch_size;
    for (uint64_t first = 0; first < samples; first += batch) {
        uint64_t count = std::min(batch, samples - first);
        VKMOE_CHECK(s.step(inputs.subspan(first * D, count * D), targets.subspan(first * D, count * D), result));
        if (options.progress && !options.progress(first + count, samples))
            return Error{ErrorCode::unsupported,
                         fmt::format("cancelled after {} of {} samples", first + count, samples)};
    }
    DeviceCounters after = s.engine->device().counters();
    result.loss /= double(std::max<uint64_t>(samples, 1));
    result.submits = after.submits - before.submits;
    result.host_waits = after.waits - before.waits;
    result.seconds = std::chrono::duration<double>(Clock::now() - start).count();
    return result;
}

Result<formats::LayerSource> LayerTrainer::weights() {
    Turn turn(*state_->engine);
    VKMOE_TRY(memory, state_->layer->downloadWeights(*state_->engine));
    return readBack(state_->layer->master(), memory, "trained weights", false);
}

Result<OptimizerState> LayerTrainer::save() {
    Turn turn(*state_->engine);
    return state_->parameters->save();
}

Result<void> LayerTrainer::restore(const OptimizerState& state, uint64_t samples_seen) {
    State& s = *state_;
    Turn turn(*s.engine);
    VKMOE_CHECK(s.parameters->restore(state));
    Commands commands;
    commands.fill(s.layer->touched(), 0, uint64_t{description().experts} * 4, 1);
    VKMOE_CHECK(submitAndWait(s.engine->device(), commands));
    s.samples_seen = samples_seen;
    return {};
}

}  // namespace v1
}  // namespace vkmoe
