#include "vkmoe/lm_trainer.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <optional>

#include "engine/models/lm_pass.h"
#include "host/transfer.h"
#include "host/views.h"

namespace vkmoe {
inline namespace v1 {
namespace {

using Clock = std::chrono::steady_clock;

constexpr uint64_t kMostVocabulary = 200000, kMostTaps = 16384;

// A layer's tensors in the order of MoE0.
Result<void> copyCanonical(const formats::LayerSource& layer, std::span<float> out) {
    auto copy = [&](const std::string& name) -> Result<void> {
        const formats::TensorRange& tensor = *layer.find(name);
        VKMOE_CHECK(layer.bytes->read(tensor.offset, std::as_writable_bytes(out.first(tensor.bytes / 4))));
        out = out.subspan(tensor.bytes / 4);
        return {};
    };
    VKMOE_CHECK(copy("router.weight"));
    for (uint32_t e = 0; e <= layer.description.experts; ++e) {
        std::string prefix = e == 0 ? "shared" : fmt::format("experts.{}", e - 1);
        for (const char* rest : {".up.weight", ".up.bias", ".down.weight", ".down.bias"})
            VKMOE_CHECK(copy(prefix + rest));
    }
    return {};
}

// What kernels and loops of 32,768 trips allow, and what no loss can be weighted by.
Result<void> checkLimits(const LmConfig& c, const LmTrainerOptions& o) {
    auto at_most = [](const char* field, uint64_t value, uint64_t most) -> Result<void> {
        if (value <= most) return {};
        return Error{ErrorCode::unsupported,
                     fmt::format("{} is {}: {} is the most that can be trained", field, value, most)};
    };
    VKMOE_CHECK(at_most("vocabSize", c.vocab_size, kMostVocabulary));
    VKMOE_CHECK(at_most("convKernel", c.conv_kernel, kMostTaps));
    uint64_t bytes = 0;
    Trunk::layout(c, bytes);
    VKMOE_CHECK(at_most("the parameters outside the experts", bytes / 4, (uint64_t{1} << 31) - 64));
    VKMOE_CHECK(checkWeight("aux_weight", o.aux_weight));
    return checkWeight("z_weight", o.z_weight);
}

uint64_t tokensOf(std::span<const Sequence> sequences) {
    uint64_t tokens = 0;
    for (const Sequence& sequence : sequences) tokens += sequence.size() < 2 ? 0 : sequence.size();
    return tokens;
}

}  // namespace

struct LmTrainer::State {
    Engine* engine;
    LmTrainerOptions options;
    Trunk trunk;
    std::vector<std::unique_ptr<TrainableLayer>> layers;
    std::vector<const ForwardPass*> forwards;
    std::vector<const BackwardPass*> backwards;
    std::vector<LayerGradients> gradients;
    std::vector<uint64_t> touched;
    std::vector<size_t> first_slab;  // of each layer; the trunk is slab 0
    std::optional<ParameterSet> set;
    std::optional<LmPass> pass;
    std::optional<LmActivations> activations;
    std::optional<BackwardWorkspace> backward;
    Buffer trunk_table, counts, scratch;  // scratch: two of [T, D]
    const Kernel *scale = nullptr, *halve = nullptr;
    LossScaler scaler{LossScalerOptions{}};
    bool grads_are_zero = false;

    Result<void> addLayer(std::span<const float> parameters, uint32_t layer);
    Result<void> buildSet();
    Result<void> buildScaling();
    Result<void> ensureActivations(uint64_t tokens);
    std::string needs(uint32_t tokens) const;
    uint64_t bytesFor(uint32_t tokens) const;
    Result<LmInputs> inputsOf(std::span<const Sequence> sequences) const;
    LmPass::Gradients where(uint32_t sequences, uint32_t tokens) const;
    void scaleGrads(Commands& commands, const Kernel& kernel, float before, float after) const;
    // Records and runs one micro-batch; `last` adds what ends a step's first half. Returns the loss summed over
    // sequences.
    Result<double> microBatch(std::span<const Sequence> sequences, double grad_scale, bool last, LmStep& step);
    Result<void> finishStep(double grad_scale, LmStep& step);
    Result<std::vector<float>> flatten(bool of_gradients) const;
};

LmTrainer::LmTrainer(std::unique_ptr<State> state) : state_(std::move(state)) {}
LmTrainer::LmTrainer(LmTrainer&&) noexcept = default;
LmTrainer& LmTrainer::operator=(LmTrainer&& other) noexcept {
    std::swap(state_, other.state_);
    return *this;
}
LmTrainer::~LmTrainer() {
    if (!state_) return;
    std::lock_guard lock(state_->engine->mutex());
    state_.reset();
}

const LmConfig& LmTrainer::config() const { return state_->trunk.config; }
uint64_t LmTrainer::peakBytes() const { return state_->engine->device().ledger().peak(); }

TrainingMemory LmTrainer::memory(uint32_t tokens) const {
    const State& s = *state_;
    TrainingMemory memory{.weights = s.trunk.memory.size(), .activations = s.bytesFor(tokens)};
    for (const auto& layer : s.layers) memory.weights += layer->weightBytes();
    for (const ParameterSlab& slab : s.set->slabs()) memory.gradients += slab.words * 4;
    memory.moments = s.set->stateBytes();
    return memory;
}

// ---- building -------------------------------------------------------------------------------------------------------

Result<LmTrainer> LmTrainer::create(Engine& engine, const formats::LmSource& source, const LmTrainerOptions& options) {
    VKMOE_CHECK(validate(options.adamw));
    VKMOE_CHECK(validate(options.schedule));
    VKMOE_CHECK(checkLimits(source.config, options));
    std::lock_guard lock(engine.mutex());
    VKMOE_TRY(parameters, formats::readParameters(source));
    auto state = std::unique_ptr<State>(new State{.engine = &engine, .options = options});
    state->scaler = LossScaler(options.scaler);
    VKMOE_TRY(trunk, Trunk::create(engine, source.config, parameters));
    state->trunk = std::move(trunk);
    for (uint32_t l = 0; l < source.config.layers; ++l) VKMOE_CHECK(state->addLayer(parameters, l));
    VKMOE_CHECK(state->buildSet());
    VKMOE_TRY(pass, LmPass::create(engine, state->trunk, true));
    state->pass = std::move(pass);
    if (options.loss_scaling) VKMOE_CHECK(state->buildScaling());
    if (options.max_tokens != 0) VKMOE_CHECK(state->ensureActivations(options.max_tokens));
    return LmTrainer(std::move(state));
}

Result<void> LmTrainer::State::addLayer(std::span<const float> parameters, uint32_t layer) {
    VKMOE_TRY(source, mixtureSource(trunk.config, parameters, layer));
    VKMOE_TRY(made, TrainableLayer::create(*engine, source, options.precision));
    forwards.push_back(&made->forward());
    backwards.push_back(&made->backward());
    touched.push_back(made->touched().address());
    layers.push_back(std::move(made));
    return {};
}

// Positions follow the canonical order: the embedding; of each layer convolution, norms, mixture.
Result<void> LmTrainer::State::buildSet() {
    const LmConfig& c = trunk.config;
    uint32_t position = 0;
    ParameterSlab all{"trunk", trunk.memory.address(), trunk.memory.size() / 4, 0, 0, {}};
    std::vector<ParameterSlab> slabs(1);
    all.tensors.push_back({"token_embedding.weight", position++, 0, trunk.embeddingWords()});
    for (uint32_t l = 0; l < c.layers; ++l) {
        std::string prefix = fmt::format("layers.{}.", l);
        const Trunk::Layer& at = trunk.layers[l];
        all.tensors.push_back({prefix + "conv.weight", position++, at.conv / 4, uint64_t{c.model_dim} * c.conv_kernel});
        all.tensors.push_back({prefix + "norm_conv.weight", position++, at.norm_conv / 4, c.model_dim});
        all.tensors.push_back({prefix + "norm_moe.weight", position++, at.norm_moe / 4, c.model_dim});
        first_slab.push_back(slabs.size());
        for (ParameterSlab& slab : layers[l]->slabs(prefix + "moe.", position)) slabs.push_back(std::move(slab));
    }
    slabs[0] = std::move(all);
    VKMOE_TRY(made, ParameterSet::create(*engine, std::move(slabs)));
    set = std::move(made);
    for (uint32_t l = 0; l < c.layers; ++l) {
        VKMOE_TRY(found, layers[l]->gradients(*engine, *set, first_slab[l]));
        gradients.push_back(found);
    }
    VKMOE_TRY(table, upload(engine->device(), std::vector<uint64_t>{set->grads(0).address()}, "table of the trunk"));
    trunk_table = std::move(table);
    VKMOE_TRY(count, engine->device().allocate(uint64_t{c.layers} * c.experts * 4, Memory::device, "expert loads"));
    counts = std::move(count);
    return {};
}

Result<void> LmTrainer::State::buildScaling() {
    VKMOE_TRY(plain, engine->kernel(kernels().scale_gradients, {}));
    VKMOE_TRY(half, engine->kernel(kernels().scale_gradients, {.weight_format = kF16}));
    scale = plain;
    halve = half;
    return {};
}

// ---- memory ---------------------------------------------------------------------------------------------------------

uint64_t LmTrainer::State::bytesFor(uint32_t tokens) const {
    const Description& d = layers.front()->description();
    LmKeep keep = options.checkpoint_activations ? LmKeep::inputs : LmKeep::all;
    return LmActivations::bytesFor(trunk.config, d, tokens, keep, false) + BackwardWorkspace::bytesFor(d, tokens) +
           uint64_t{tokens} * trunk.config.model_dim * 8;
}

std::string LmTrainer::State::needs(uint32_t tokens) const {
    Ledger& ledger = engine->device().ledger();
    uint64_t left = ledger.budget() - std::min(ledger.budget(), ledger.used());
    uint32_t fit = 0;
    for (uint32_t step = 1u << 30; step != 0; step /= 2)
        if (fit + step < tokens && bytesFor(fit + step) <= left) fit += step;
    return fmt::format(
        "a micro-batch of {} tokens needs {} bytes for activations; {} of the budget of {} bytes are "
        "left, enough for {} tokens{}",
        tokens, bytesFor(tokens), left, ledger.budget(), fit,
        options.checkpoint_activations ? "" : "; recomputing activations would need fewer");
}

Result<void> LmTrainer::State::ensureActivations(uint64_t tokens) {
    if (activations && activations->capacity >= tokens) return {};
    activations.reset();
    backward.reset();
    scratch.reset();
    const Description& d = layers.front()->description();
    Device& device = engine->device();
    uint64_t most = std::min<uint64_t>(
        {Workspace::largestCapacity(d, d.top_k), BackwardPass::kMostTokens, UINT32_MAX / trunk.config.vocab_size});
    if (tokens > most)
        return Error{ErrorCode::bad_input,
                     fmt::format("a micro-batch of {} tokens: {} are the most for {} experts and a vocabulary of {}",
                                 tokens, most, d.experts, trunk.config.vocab_size)};
    auto capacity = uint32_t(tokens);
    if (bytesFor(capacity) > device.ledger().budget() - std::min(device.ledger().budget(), device.ledger().used()))
        return Error{ErrorCode::out_of_memory, needs(capacity)};
    LmKeep keep = options.checkpoint_activations ? LmKeep::inputs : LmKeep::all;
    VKMOE_TRY(made, LmActivations::create(device, trunk.config, d, capacity, keep, false));
    VKMOE_TRY(back, BackwardWorkspace::create(device, d, capacity));
    VKMOE_TRY(rows, device.allocate(uint64_t{capacity} * d.model_dim * 8, Memory::device, "gradients of rows"));
    activations = std::move(made);
    backward = std::move(back);
    scratch = std::move(rows);
    return {};
}

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
    g.trunk = set->grads(0).address();
    g.workspace = &*backward;
    g.mixtures = gradients;
    g.grad_u = scratch.address();
    g.grad_n = scratch.address() + rows;
    double share = double(sequences) / double(tokens);
    g.balance_scale = float(double(options.aux_weight) * trunk.config.experts * share);
    g.z_scale = float(2 * double(options.z_weight) * share);
    g.counts = counts.address();
    g.touched = touched;
    return g;
}

void LmTrainer::State::scaleGrads(Commands& commands, const Kernel& kernel, float before, float after) const {
    commands.barrier();
    for (size_t i = 0; i < set->slabs().size(); ++i) {
        auto count = uint32_t(set->slabs()[i].words);
        commands.dispatch(kernel, ScaleGradients{set->grads(i).at<F32>(), count, before, after, 0}, count);
    }
    commands.barrier();
}

Result<double> LmTrainer::State::microBatch(std::span<const Sequence> sequences, double grad_scale, bool last,
                                            LmStep& step) {
    VKMOE_TRY(inputs, inputsOf(sequences));
    uint32_t tokens = inputs.tokens();
    VKMOE_CHECK(ensureActivations(std::max(tokens, 1u)));
    LmActivations& a = *activations;
    pass->fill(a, inputs);
    Commands commands;
    if (!grads_are_zero) set->zeroGrads(commands);
    commands.fill(counts, 0, counts.size(), 0);
    auto used =
        uint32_t(std::count_if(sequences.begin(), sequences.end(), [](const auto& s) { return s.size() >= 2; }));
    if (tokens != 0) {
        pass->forward(commands, a, forwards, tokens);
        pass->loss(commands, a, tokens, true);
        pass->backward(commands, a, forwards, backwards, where(used, tokens), inputs, options.checkpoint_activations);
        if (options.loss_scaling) scaleGrads(commands, *scale, float(scaler.scale()), 1.0f);
        pass->downloadResults(commands, a, tokens);
    }
    if (last && options.loss_scaling) scaleGrads(commands, *halve, float(grad_scale), float(1.0 / scaler.scale()));
    if (last) set->squares(commands, options.loss_scaling ? 1.0f : float(grad_scale));
    VKMOE_CHECK(submitAndWait(engine->device(), commands));
    grads_are_zero = true;
    if (tokens == 0) return 0.0;
    VKMOE_CHECK(pass->check(a, forwards));
    VKMOE_CHECK(pass->checkBackward(a, backwards));
    double loss = 0;
    auto losses = view<float>(a.download, a.back.losses, tokens);
    for (uint32_t t = 0; t < tokens; ++t) loss += double(losses[t]) * double(inputs.weights[t]);
    const uint32_t experts = trunk.config.experts;
    auto offsets = view<uint32_t>(a.download, a.back.offsets, (size_t{experts} + 1) * layers.size());
    step.expert_tokens.resize(layers.size() * experts);
    for (size_t l = 0; l < layers.size(); ++l)
        for (uint32_t e = 0; e < experts; ++e)
            step.expert_tokens[l * experts + e] += offsets[l * (experts + 1) + e + 1] - offsets[l * (experts + 1) + e];
    step.tokens += tokens;
    return loss;
}

// ---- steps ----------------------------------------------------------------------------------------------------------

Result<void> LmTrainer::State::finishStep(double grad_scale, LmStep& step) {
    GradNorm norm = set->gradNorm();
    bool finite = norm.finite();
    if (!finite && !options.loss_scaling) return Error{ErrorCode::bad_input, norm.fault};
    step.skipped = options.loss_scaling && !scaler.update(finite);
    if (step.skipped) return {};
    step.grad_norm = norm.norm;
    step.learning_rate = options.adamw.learning_rate * rateFraction(options.schedule, set->step() + 1);
    Commands commands;
    set->adamw(commands, options.adamw, step.learning_rate, options.loss_scaling ? 1.0 : grad_scale,
               clipFactor(options.adamw, norm.norm));
    for (const auto& layer : layers) layer->refresh(commands);
    VKMOE_CHECK(submitAndWait(engine->device(), commands));
    return set->checkWeights();
}

Result<LmStep> LmTrainer::step(std::span<const std::vector<Sequence>> micro_batches) {
    State& s = *state_;
    std::lock_guard lock(s.engine->mutex());
    LmStep step;
    DeviceCounters before = s.engine->device().counters();
    auto start = Clock::now();
    uint64_t sequences = 0;
    for (const auto& batch : micro_batches)
        sequences += uint64_t(std::count_if(batch.begin(), batch.end(), [](const auto& q) { return q.size() >= 2; }));
    if (sequences == 0) return Error{ErrorCode::bad_input, "a step has no sequence of two tokens or more"};
    s.grads_are_zero = false;
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
    std::lock_guard lock(state_->engine->mutex());
    LmStep step;
    state_->grads_are_zero = !first;
    return state_->microBatch(sequences, 1, false, step);
}

Result<double> LmTrainer::evaluate(std::span<const Sequence> sequences) {
    State& s = *state_;
    std::lock_guard lock(s.engine->mutex());
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
        s.pass->forward(commands, a, s.forwards, inputs.tokens());
        s.pass->loss(commands, a, inputs.tokens(), false);
        s.pass->downloadResults(commands, a, inputs.tokens());
        VKMOE_CHECK(submitAndWait(s.engine->device(), commands));
        VKMOE_CHECK(s.pass->check(a, s.forwards));
        auto losses = view<float>(a.download, a.back.losses, inputs.tokens());
        for (uint32_t t = 0; t < inputs.tokens(); ++t) {
            if (inputs.targets[t] == kAbsent) continue;
            sum += double(losses[t]);
            predicted += 1;
        }
    }
    return predicted == 0 ? 0.0 : sum / predicted;
}

// ---- parameters and state -------------------------------------------------------------------------------------------

Result<std::vector<float>> LmTrainer::State::flatten(bool of_gradients) const {
    std::vector<float> out(parameterCount(trunk.config));
    const Buffer& from = of_gradients ? set->grads(0) : trunk.memory;
    VKMOE_TRY(words, download<float>(engine->device(), from, trunk.memory.size() / 4));
    trunk.unpack(words, out);
    for (uint32_t l = 0; l < trunk.config.layers; ++l) {
        LayerMemory memory;
        if (of_gradients) {
            VKMOE_TRY(grads, layers[l]->downloadGradients(*engine, *set, first_slab[l]));
            memory = std::move(grads);
        } else {
            VKMOE_TRY(weights, downloadWeights(*engine, layers[l]->master()));
            memory = std::move(weights);
        }
        auto source = readBack(layers[l]->master(), memory, "layer", of_gradients);
        ParameterRange range = mixtureRange(trunk.config, l);
        VKMOE_CHECK(copyCanonical(source, std::span(out).subspan(range.first, range.count)));
    }
    return out;
}

Result<std::vector<float>> LmTrainer::gradients() {
    std::lock_guard lock(state_->engine->mutex());
    return state_->flatten(true);
}

Result<std::vector<float>> LmTrainer::parameters() {
    std::lock_guard lock(state_->engine->mutex());
    return state_->flatten(false);
}

Result<LmTrainerState> LmTrainer::state() {
    std::lock_guard lock(state_->engine->mutex());
    VKMOE_TRY(parameters, state_->flatten(false));
    VKMOE_TRY(moments, state_->set->save());
    return LmTrainerState{std::move(parameters), std::move(moments.first), std::move(moments.second),
                          moments.step,          state_->scaler.scale(),   state_->scaler.streak()};
}

Result<void> LmTrainer::restore(const LmTrainerState& saved) {
    State& s = *state_;
    std::lock_guard lock(s.engine->mutex());
    uint64_t count = parameterCount(config());
    if (saved.parameters.size() != count)
        return Error{ErrorCode::bad_input,
                     fmt::format("the state has {} parameters, the model {}", saved.parameters.size(), count)};
    VKMOE_TRY(trunk, Trunk::create(*s.engine, config(), saved.parameters));
    std::vector<formats::LayerSource> sources;
    for (uint32_t l = 0; l < config().layers; ++l) {
        VKMOE_TRY(source, mixtureSource(config(), saved.parameters, l));
        sources.push_back(std::move(source));
    }
    VKMOE_CHECK(s.set->restore({saved.step, saved.first, saved.second}));
    Commands commands;
    commands.copy(trunk.memory, 0, s.trunk.memory, 0, trunk.memory.size());
    std::vector<uint32_t> used(config().experts, 1);  // an expert may have moments: none is left out
    VKMOE_TRY(ones, upload(s.engine->device(), used, "experts that were used"));
    for (uint32_t l = 0; l < config().layers; ++l) {
        VKMOE_CHECK(s.layers[l]->master().fill(*s.engine, sources[l]));
        commands.copy(ones, 0, s.layers[l]->touched(), 0, uint64_t{config().experts} * 4);
        s.layers[l]->refresh(commands);
    }
    s.scaler = LossScaler(s.options.scaler, saved.loss_scale, saved.loss_streak);
    return submitAndWait(s.engine->device(), commands);
}

}  // namespace v1
}  // namespace vkmoe
