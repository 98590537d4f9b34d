#include "vkmoe/layer_trainer.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <optional>

#include "engine/train/trainable_layer.h"
#include "host/transfer.h"

namespace vkmoe {
inline namespace v1 {
namespace {

using Clock = std::chrono::steady_clock;

template <class T>
std::span<const T> view(const Buffer& buffer, uint64_t offset, size_t count) {
    return {reinterpret_cast<const T*>(buffer.mapped().data() + offset), count};
}

// The host's side of a batch: byte offsets.
struct Places {
    uint64_t inputs = 0, targets = 0;                                                      // of the upload buffer
    uint64_t losses = 0, logits = 0, offsets = 0, grad_in = 0, forward = 0, backward = 0;  // of the download buffer
    uint64_t loss_status = 0;
};

// The mean probability of each expert, in double.
std::vector<double> meanProbabilities(std::span<const float> logits, uint32_t experts) {
    std::vector<double> mean(experts), row(experts);
    size_t tokens = logits.size() / experts;
    for (size_t t = 0; t < tokens; ++t) {
        auto of_token = logits.subspan(t * experts, experts);
        double largest = *std::max_element(of_token.begin(), of_token.end()), sum = 0;
        for (uint32_t e = 0; e < experts; ++e) sum += row[e] = std::exp(double(of_token[e]) - largest);
        for (uint32_t e = 0; e < experts; ++e) mean[e] += row[e] / sum / double(tokens);
    }
    return mean;
}

}  // namespace

struct LayerTrainer::State {
    Engine* engine;
    LayerTrainerOptions options;
    std::unique_ptr<TrainableLayer> layer;
    std::optional<ParameterSet> set;
    LayerGradients gradients;
    const Kernel *squared_error = nullptr, *count = nullptr;
    // Of up to workspace->capacity tokens.
    std::optional<Workspace> workspace;
    std::optional<BackwardWorkspace> backward;
    Buffer upload, download, losses, counts;  // losses: [T], then [2] status
    Places at;
    uint64_t samples_seen = 0;  // in all epochs: the noise on the logits differs from one to the next

    Result<void> build();
    Result<void> ensureWorkspace(uint64_t tokens);
    Result<void> allocateBatch(uint32_t capacity);
    void recordForward(Commands& commands, uint32_t tokens, bool training) const;
    void recordLoss(Commands& commands, uint32_t tokens) const;
    void recordBackward(Commands& commands, uint32_t tokens, float balance_scale, float z_scale) const;
    void recordDownloads(Commands& commands, uint32_t tokens) const;
    Result<void> submit(const Commands& commands) const;
    Result<double> timed(const Commands& commands) const;
    Result<void> step(std::span<const float> x, std::span<const float> targets, EpochResult& result);
    Result<void> finishStep(uint32_t tokens, EpochResult& result);
    float balanceScale(uint32_t tokens) const;
};

LayerTrainer::LayerTrainer(std::unique_ptr<State> state) : state_(std::move(state)) {}
LayerTrainer::LayerTrainer(LayerTrainer&&) noexcept = default;
LayerTrainer& LayerTrainer::operator=(LayerTrainer&& other) noexcept {
    std::swap(state_, other.state_);
    return *this;
}
LayerTrainer::~LayerTrainer() {
    if (!state_) return;
    std::lock_guard lock(state_->engine->mutex());
    state_.reset();
}

const Description& LayerTrainer::description() const { return state_->layer->description(); }

uint64_t LayerTrainer::deviceBytes() const { return state_->engine->device().ledger().used(); }

Result<LayerTrainer> LayerTrainer::create(Engine& engine, const formats::LayerSource& source,
                                          const LayerTrainerOptions& options) {
    VKMOE_CHECK(validate(options.adamw));
    std::lock_guard lock(engine.mutex());
    auto state = std::make_unique<State>();
    state->engine = &engine;
    state->options = options;
    VKMOE_TRY(layer, TrainableLayer::create(engine, source, options.precision));
    state->layer = std::move(layer);
    VKMOE_CHECK(state->build());
    return LayerTrainer(std::move(state));
}

Result<void> LayerTrainer::State::build() {
    uint32_t position = 0;
    VKMOE_TRY(made, ParameterSet::create(*engine, layer->slabs("", position)));
    set = std::move(made);
    VKMOE_TRY(where, layer->gradients(*engine, *set, 0));
    gradients = where;
    VKMOE_TRY(error_kernel, engine->kernel(kernels().squared_error, {}));
    VKMOE_TRY(count_kernel, engine->kernel(kernels().count_tokens, {}));
    squared_error = error_kernel;
    count = count_kernel;
    VKMOE_TRY(buffer, engine->device().allocate(uint64_t{layer->description().experts} * 4, Memory::device,
                                                "tokens of each expert"));
    counts = std::move(buffer);
    return {};
}

// Activations for a batch, all at once.
Result<void> LayerTrainer::State::ensureWorkspace(uint64_t tokens) {
    if (workspace && workspace->capacity >= tokens) return {};
    workspace.reset();
    backward.reset();
    upload.reset();
    download.reset();
    losses.reset();
    const Description& d = layer->description();
    Ledger& ledger = engine->device().ledger();
    uint64_t left = ledger.budget() - std::min(ledger.budget(), ledger.used());
    uint64_t fit = Workspace::largestCapacity(d, d.top_k, left / 2, {false, true});
    while (fit > 0 && Workspace::bytesFor(d, d.top_k, uint32_t(fit), {false, true}) +
                              BackwardWorkspace::bytesFor(d, uint32_t(fit)) + fit * 16 * d.model_dim >
                          left)
        fit = fit * 9 / 10;
    if (tokens > fit)
        return Error{ErrorCode::out_of_memory,
                     fmt::format("a batch of {} samples does not fit: {} of the budget of {} bytes are left, enough "
                                 "for {} samples",
                                 tokens, left, ledger.budget(), fit)};
    return allocateBatch(uint32_t(tokens));
}

Result<void> LayerTrainer::State::allocateBatch(uint32_t capacity) {
    const Description& d = layer->description();
    Device& device = engine->device();
    VKMOE_TRY(made, Workspace::create(device, d, d.top_k, capacity, {false, true}));
    workspace = std::move(made);
    VKMOE_TRY(back, BackwardWorkspace::create(device, d, capacity));
    backward = std::move(back);
    uint64_t values = uint64_t{capacity} * d.model_dim * 4;
    at.targets = values;
    at.losses = values;
    at.logits = at.losses + uint64_t{capacity} * 4;
    at.offsets = at.logits + uint64_t{capacity} * d.experts * 4;
    at.loss_status = at.offsets + (uint64_t{d.experts} + 1) * 4;
    at.forward = at.loss_status + 8;
    at.backward = at.forward + 8 * Workspace::kStatusRows;
    VKMOE_TRY(up, device.allocate(2 * values, Memory::upload, "a batch of samples"));
    VKMOE_TRY(down, device.allocate(at.backward + 8 * BackwardWorkspace::kStatusRows, Memory::download,
                                    "results of a batch"));
    VKMOE_TRY(loss, device.allocate(uint64_t{capacity} * 4 + 8 + values, Memory::device, "losses and targets"));
    upload = std::move(up);
    download = std::move(down);
    losses = std::move(loss);
    return {};
}

// ---- one batch ------------------------------------------------------------------------------------------------------

void LayerTrainer::State::recordForward(Commands& commands, uint32_t tokens, bool training) const {
    const Description& d = layer->description();
    uint64_t values = uint64_t{tokens} * d.model_dim * 4;
    commands.copy(upload, 0, workspace->memory, workspace->raw, values);
    layer->forward().recordOnDevice(commands, *workspace,
                                    {.first = samples_seen, .tokens = tokens, .training = training});
}

// Targets follow the losses and their status.
void LayerTrainer::State::recordLoss(Commands& commands, uint32_t tokens) const {
    const Description& d = layer->description();
    uint64_t status = uint64_t{workspace->capacity} * 4, targets = status + 8;
    commands.fill(losses, status, 8, 0);
    commands.copy(upload, at.targets, losses, targets, uint64_t{tokens} * d.model_dim * 4);
    commands.barrier();
    SquaredError p{workspace->memory.at<F32>(workspace->out),
                   losses.at<F32>(targets),
                   backward->memory.at<F32>(backward->grad_out),
                   losses.at<F32>(),
                   losses.at<U32>(status),
                   tokens,
                   d.model_dim};
    commands.dispatch(*squared_error, p, uint64_t{tokens} * kWorkgroup);
    commands.barrier();
}

void LayerTrainer::State::recordBackward(Commands& commands, uint32_t tokens, float balance_scale,
                                         float z_scale) const {
    uint32_t experts = layer->description().experts;
    commands.fill(counts, 0, counts.size(), 0);
    commands.barrier();
    CountTokens p{workspace->memory.at<U32>(workspace->offsets), counts.at<U32>(), experts, 0};
    commands.dispatch(*count, p, experts);
    p.counts = layer->touched().at<U32>();
    commands.dispatch(*count, p, experts);
    commands.barrier();
    BackwardPass::Batch batch{.tokens = tokens, .assignments = tokens * layer->description().top_k};
    batch.balance_scale = balance_scale;
    batch.z_scale = z_scale;
    batch.counts = counts.address();
    layer->backward().record(commands, *workspace, *backward, gradients, batch);
}

void LayerTrainer::State::recordDownloads(Commands& commands, uint32_t tokens) const {
    const Workspace& w = *workspace;
    uint64_t experts = layer->description().experts;
    commands.copy(losses, 0, download, at.losses, uint64_t{tokens} * 4);
    commands.copy(losses, uint64_t{w.capacity} * 4, download, at.loss_status, 8);
    commands.copy(w.memory, w.logits, download, at.logits, tokens * experts * 4);
    commands.copy(w.memory, w.offsets, download, at.offsets, (experts + 1) * 4);
    commands.copy(backward->memory, backward->grad_in, download, at.grad_in,
                  uint64_t{tokens} * layer->description().model_dim * 4);
    commands.copy(w.memory, w.status, download, at.forward, 8 * Workspace::kStatusRows);
    commands.copy(backward->memory, backward->status, download, at.backward, 8 * BackwardWorkspace::kStatusRows);
}

Result<void> LayerTrainer::State::submit(const Commands& commands) const {
    VKMOE_CHECK(submitAndWait(engine->device(), commands));
    VKMOE_CHECK(layer->forward().check(view<uint32_t>(download, at.forward, 2 * Workspace::kStatusRows).data(),
                                       layer->description().top_k, 0));
    auto loss = view<uint32_t>(download, at.loss_status, 2);
    if (loss[0] != 0)
        return Error{ErrorCode::bad_input,
                     fmt::format("the targets: {} differences to the outputs are not finite or not below 2^63 in size",
                                 loss[0])};
    return layer->backward().check(view<uint32_t>(download, at.backward, 2 * BackwardWorkspace::kStatusRows).data());
}

Result<double> LayerTrainer::State::timed(const Commands& commands) const {
    auto start = Clock::now();
    VKMOE_CHECK(submitAndWait(engine->device(), commands));
    return std::chrono::duration<double>(Clock::now() - start).count();
}

// The reference divides by the batch here, and with all gradients again.
float LayerTrainer::State::balanceScale(uint32_t tokens) const {
    double scale = double(options.aux_weight) * layer->description().experts;
    return float(options.aux_scale == AuxScale::reference ? scale / tokens : scale);
}

Result<void> LayerTrainer::State::step(std::span<const float> x, std::span<const float> targets, EpochResult& result) {
    const Description& d = layer->description();
    auto tokens = uint32_t(x.size() / d.model_dim);
    VKMOE_CHECK(ensureWorkspace(tokens));
    std::memcpy(upload.mapped().data(), x.data(), x.size_bytes());
    std::memcpy(upload.mapped().data() + at.targets, targets.data(), targets.size_bytes());
    Commands commands;
    set->zeroGrads(commands);
    recordForward(commands, tokens, true);
    recordLoss(commands, tokens);
    recordBackward(commands, tokens, balanceScale(tokens), float(2 * double(options.z_weight)));
    set->squares(commands, float(1.0 / tokens));
    recordDownloads(commands, tokens);
    VKMOE_CHECK(submit(commands));
    return finishStep(tokens, result);
}

Result<void> LayerTrainer::State::finishStep(uint32_t tokens, EpochResult& result) {
    const Description& d = layer->description();
    GradNorm norm = set->gradNorm();
    if (!norm.finite()) return Error{ErrorCode::bad_input, norm.fault};
    Commands commands;
    set->adamw(commands, options.adamw, options.adamw.learning_rate, 1.0 / tokens,
               clipFactor(options.adamw, norm.norm));
    layer->refresh(commands);
    VKMOE_CHECK(submitAndWait(engine->device(), commands));
    VKMOE_CHECK(set->checkWeights());
    for (float loss : view<float>(download, at.losses, tokens)) result.loss += double(loss);
    auto offsets = view<uint32_t>(download, at.offsets, d.experts + 1);
    auto mean = meanProbabilities(view<float>(download, at.logits, size_t{tokens} * d.experts), d.experts);
    double assignments = std::max<double>(offsets[d.experts], 1), aux = 0;
    for (uint32_t e = 0; e < d.experts; ++e) {
        uint32_t count_of_expert = offsets[e + 1] - offsets[e];
        result.expert_tokens[e] += count_of_expert;
        aux += double(float(count_of_expert / assignments)) * mean[e];
    }
    result.aux_loss = d.experts * aux;
    ++result.steps;
    samples_seen += tokens;
    return {};
}

// ---- public ---------------------------------------------------------------------------------------------------------

namespace {

Result<uint64_t> samplesOf(size_t values, uint32_t model_dim, const char* what) {
    if (values % model_dim == 0) return uint64_t{values / model_dim};
    return Error{ErrorCode::bad_input,
                 fmt::format("the {} have {} values, no whole number of rows of {} values", what, values, model_dim)};
}

}  // namespace

Result<LayerGradientResult> LayerTrainer::backward(std::span<const float> x, std::span<const float> grad_out) {
    State& s = *state_;
    std::lock_guard lock(s.engine->mutex());
    const Description& d = description();
    VKMOE_TRY(tokens, samplesOf(x.size(), d.model_dim, "inputs"));
    VKMOE_TRY(gradient_rows, samplesOf(grad_out.size(), d.model_dim, "output gradients"));
    if (tokens != gradient_rows)
        return Error{ErrorCode::bad_input,
                     fmt::format("there are {} inputs, but {} output gradients", tokens, gradient_rows)};
    LayerGradientResult result;
    Commands forward, backward;
    s.set->zeroGrads(forward);
    if (tokens != 0) {
        VKMOE_CHECK(s.ensureWorkspace(tokens));
        auto count = uint32_t(tokens);
        std::memcpy(s.upload.mapped().data(), x.data(), x.size_bytes());
        std::memcpy(s.upload.mapped().data() + s.at.targets, grad_out.data(), grad_out.size_bytes());
        forward.fill(s.losses, 0, s.losses.size(), 0);
        forward.copy(s.upload, s.at.targets, s.backward->memory, s.backward->grad_out, grad_out.size_bytes());
        VKMOE_TRY(prepared, s.timed(forward));
        (void)prepared;
        forward = {};
        s.recordForward(forward, count, false);
        VKMOE_TRY(forward_seconds, s.timed(forward));
        s.recordBackward(backward, count, 0, 0);
        VKMOE_TRY(backward_seconds, s.timed(backward));
        Commands downloads;
        s.recordDownloads(downloads, count);
        VKMOE_CHECK(s.submit(downloads));
        result.forward_seconds = forward_seconds;
        result.backward_seconds = backward_seconds;
        auto grad_in = view<float>(s.download, s.at.grad_in, x.size());
        result.input.assign(grad_in.begin(), grad_in.end());
    } else {
        VKMOE_CHECK(submitAndWait(s.engine->device(), forward));
    }
    VKMOE_TRY(memory, s.layer->downloadGradients(*s.engine, *s.set, 0));
    result.gradients = readBack(s.layer->master(), memory, "gradients", true);
    return result;
}

Result<EpochResult> LayerTrainer::epoch(std::span<const float> inputs, std::span<const float> targets,
                                        const EpochOptions& options) {
    State& s = *state_;
    std::lock_guard lock(s.engine->mutex());
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
    std::lock_guard lock(state_->engine->mutex());
    VKMOE_TRY(memory, downloadWeights(*state_->engine, state_->layer->master()));
    return readBack(state_->layer->master(), memory, "trained weights", false);
}

}  // namespace v1
}  // namespace vkmoe
