#include "vkmoe/lm_trainer.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <optional>

#include "engine/models/lm_mixtures.h"
#include "engine/train/trained_parameters.h"
#include "host/transfer.h"
#include "host/views.h"
#include "shaders/exact_math.h"

namespace vkmoe {
inline namespace v1 {
namespace {

using Clock = std::chrono::steady_clock;

constexpr uint64_t kMostTrainedVocabulary = 200000, kMostTrainedTaps = 16384;
constexpr uint64_t kMostInChunks = 30000;                           // tokens: what sums over a micro-batch loop over
constexpr uint64_t kMostCountedInChunks = (uint64_t{1} << 24) - 1;  // assignments that f32 counts

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
    VKMOE_CHECK(at_most("vocabSize", c.vocab_size, kMostTrainedVocabulary));
    VKMOE_CHECK(at_most("convKernel", c.conv_kernel, kMostTrainedTaps));
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
    std::optional<LmMixtures> mixtures;
    std::optional<TrainedParameters> all;  // slab 0 is the trunk
    std::vector<LayerGradients> gradients;
    std::optional<LmPass> pass;
    std::optional<LmActivations> activations;
    std::optional<BackwardWorkspace> backward;
    std::optional<LmCarry> carry;         // if the activations are larger than a chunk
    Buffer trunk_table, counts, scratch;  // scratch: two of [T, D]
    const Kernel *scale = nullptr, *halve = nullptr;
    LossScaler scaler{LossScalerOptions{}};
    bool grads_are_zero = false;
    std::optional<Error> overflow;  // a scaled gradient of this step may not be stored

    Result<void> buildSet();
    Result<void> buildScaling();
    Result<void> ensureActivations(uint64_t tokens);
    const char* fewerBytes() const;
    std::string needs(uint32_t tokens) const;
    LmCarry::Model carriedModel() const;
    uint64_t bytesFor(uint32_t tokens) const;
    uint64_t mostAtOnce() const;
    uint32_t chunkOf(uint64_t tokens) const;
    const LmCarry* carryOf(uint32_t tokens) const { return tokens > activations->chunk ? &*carry : nullptr; }
    Result<void> checkTokens(uint64_t tokens) const;
    LmPass::Loads loads() const { return {counts.address(), mixtures->touched()}; }
    Result<void> allocate(uint32_t tokens);
    Result<LmInputs> inputsOf(std::span<const Sequence> sequences) const;
    LmPass::Gradients where(uint32_t sequences, uint32_t tokens) const;
    Result<void> recordPasses(Commands& commands, const LmInputs& inputs, uint32_t sequences);
    void countTokens(LmStep& step, uint32_t tokens) const;
    Result<void> checkGradients(Result<void> checked, bool scaled_before);
    // Records and runs one micro-batch; `last` adds what ends a step's first half. Returns the loss summed over
    // sequences.
    Result<double> microBatch(std::span<const Sequence> sequences, double grad_scale, bool last, LmStep& step);
    Result<void> finishStep(double grad_scale, LmStep& step);
    // With loss scaling gradients are scaled before they are squared.
    float squaresScale(double grad_scale) const { return options.loss_scaling ? 1.0f : float(grad_scale); }
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
    return {.weights = s.trunk.memory.size() + s.mixtures->weightBytes(),
            .gradients = s.all->gradientBytes(),
            .moments = s.all->set().stateBytes(),
            .activations = s.bytesFor(tokens),
            .pages = s.mixtures->paged() ? s.mixtures->paged()->pager().bytes() : 0};
}

std::optional<PagingReport> LmTrainer::paging() const {
    if (!state_->mixtures->paged()) return std::nullopt;
    return state_->mixtures->paged()->report();
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
    VKMOE_TRY(mixtures, LmMixtures::create(engine, source.config, parameters, options.precision, options.paging,
                                           options.max_chunk != 0));
    state->mixtures = std::move(mixtures);
    VKMOE_CHECK(state->buildSet());
    VKMOE_TRY(pass, LmPass::create(engine, state->trunk, true));
    state->pass = std::move(pass);
    if (options.loss_scaling) VKMOE_CHECK(state->buildScaling());
    if (options.max_tokens != 0) VKMOE_CHECK(state->ensureActivations(options.max_tokens));
    return LmTrainer(std::move(state));
}

// Positions follow the canonical order: the embedding; of each layer convolution, norms, mixture.
Result<void> LmTrainer::State::buildSet() {
    const LmConfig& c = trunk.config;
    uint32_t position = 0;
    ParameterSlab own{"trunk", trunk.memory.address(), trunk.memory.size() / 4, 0, 0, {}};
    std::vector<ParameterSlab> slabs(1);
    std::vector<size_t> first_slabs;
    own.tensors.push_back({"token_embedding.weight", position++, 0, trunk.embeddingWords()});
    for (uint32_t l = 0; l < c.layers; ++l) {
        std::string prefix = fmt::format("layers.{}.", l);
        const Trunk::Layer& at = trunk.layers[l];
        own.tensors.push_back({prefix + "conv.weight", position++, at.conv / 4, uint64_t{c.model_dim} * c.conv_kernel});
        own.tensors.push_back({prefix + "norm_conv.weight", position++, at.norm_conv / 4, c.model_dim});
        own.tensors.push_back({prefix + "norm_moe.weight", position++, at.norm_moe / 4, c.model_dim});
        first_slabs.push_back(slabs.size());
        for (ParameterSlab& slab : mixtures->layer(l).slabs(LmMixtures::prefix(l), position))
            slabs.push_back(std::move(slab));
    }
    slabs[0] = std::move(own);
    VKMOE_TRY(made, ParameterSet::create(*engine, std::move(slabs)));
    all.emplace(*engine, std::move(made), std::move(first_slabs), mixtures->paged());
    for (uint32_t l = 0; l < c.layers; ++l) {
        VKMOE_TRY(found, mixtures->layer(l).gradients(*engine, all->set(), all->firstSlab(l)));
        gradients.push_back(found);
    }
    VKMOE_TRY(table,
              upload(engine->device(), std::vector<uint64_t>{all->set().grads(0).address()}, "table of the trunk"));
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

// In the mixtures, whose weights' gradients are sums over slots, and in the head.
uint64_t LmTrainer::State::mostAtOnce() const {
    const Description d = mixtureDescription(trunk.config);
    return std::min<uint64_t>(
        {Workspace::largestCapacity(d, d.top_k), BackwardPass::kMostTokens, UINT32_MAX / trunk.config.vocab_size});
}

uint32_t LmTrainer::State::chunkOf(uint64_t tokens) const {
    if (options.max_chunk == 0) return uint32_t(tokens);
    return uint32_t(std::min<uint64_t>({tokens, options.max_chunk, mostAtOnce()}));
}

Result<void> LmTrainer::State::checkTokens(uint64_t tokens) const {
    const bool cut = options.max_chunk != 0;
    const LmConfig& c = trunk.config;
    uint64_t most = cut ? std::min<uint64_t>({kMostInChunks, kMostCountedInChunks / c.top_k, UINT32_MAX / c.model_dim})
                        : mostAtOnce();
    if (tokens <= most) return {};
    return Error{
        ErrorCode::bad_input,
        fmt::format("a micro-batch of {} tokens: {} are the most{}{}", tokens, most,
                    cut ? " in chunks" : fmt::format(" for {} experts and a vocabulary of {}", c.experts, c.vocab_size),
                    !cut && tokens <= kMostInChunks ? "; more may come in chunks" : "")};
}

LmCarry::Model LmTrainer::State::carriedModel() const {
    const bool any = trunk.config.layers != 0;
    return {trunk, any ? &mixtures->layer(0) : nullptr, all->set(), any ? all->firstSlab(0) : 0};
}

uint64_t LmTrainer::State::bytesFor(uint32_t tokens) const {
    const Description d = mixtureDescription(trunk.config);
    const uint32_t chunk = chunkOf(tokens);
    LmKeep keep = options.checkpoint_activations ? LmKeep::inputs : LmKeep::all;
    uint64_t bytes = LmActivations::bytesFor(trunk.config, d, tokens, chunk, keep, false) +
                     BackwardWorkspace::bytesFor(d, chunk) + uint64_t{tokens} * trunk.config.model_dim * 8;
    if (chunk == tokens) return bytes;
    return bytes + LmCarry::bytesFor(carriedModel(), tokens);
}

// What else may be tried.
const char* LmTrainer::State::fewerBytes() const {
    const bool whole = options.max_chunk == 0;
    if (options.checkpoint_activations) return whole ? "; chunks may need fewer" : "";
    return whole ? "; recomputing activations would need fewer, chunks may"
                 : "; recomputing activations would need fewer";
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
        tokens, bytesFor(tokens), left, ledger.budget(), fit, fewerBytes());
}

Result<void> LmTrainer::State::ensureActivations(uint64_t tokens) {
    if (activations && activations->capacity >= tokens) return {};
    activations.reset();
    backward.reset();
    carry.reset();
    scratch.reset();
    VKMOE_CHECK(checkTokens(tokens));
    Ledger& ledger = engine->device().ledger();
    if (bytesFor(uint32_t(tokens)) > ledger.budget() - std::min(ledger.budget(), ledger.used()))
        return Error{ErrorCode::out_of_memory, needs(uint32_t(tokens))};
    return allocate(uint32_t(tokens));
}

Result<void> LmTrainer::State::allocate(uint32_t tokens) {
    const Description d = mixtureDescription(trunk.config);
    Device& device = engine->device();
    const uint32_t chunk = chunkOf(tokens);
    LmKeep keep = options.checkpoint_activations ? LmKeep::inputs : LmKeep::all;
    VKMOE_TRY(made, LmActivations::create(device, trunk.config, d, tokens, chunk, keep, false));
    VKMOE_TRY(back, BackwardWorkspace::create(device, d, chunk));
    VKMOE_TRY(rows, device.allocate(uint64_t{tokens} * d.model_dim * 8, Memory::device, "gradients of rows"));
    if (chunk < tokens) {
        VKMOE_TRY(sums, LmCarry::create(*engine, carriedModel(), tokens));
        VKMOE_CHECK(mixtures->prepareChunks(sums));
        carry = std::move(sums);
    }
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
    VKMOE_CHECK(pass->backward(commands, a, again, mixtures->backward(gradients_at.carry), gradients_at, inputs));
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
    const bool scaled_before = grads_are_zero && options.loss_scaling && options.rescale_sums;
    if (!grads_are_zero) VKMOE_CHECK(all->zeroGrads(commands));
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
    grads_are_zero = true;
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
    s.overflow.reset();
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
    state_->overflow.reset();
    VKMOE_TRY(loss, state_->microBatch(sequences, 1, false, step));
    if (state_->overflow) return *state_->overflow;
    return loss;
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

// ---- parameters and state -------------------------------------------------------------------------------------------

Result<std::vector<float>> LmTrainer::State::flatten(bool of_gradients) const {
    std::vector<float> out(parameterCount(trunk.config));
    const Buffer& from = of_gradients ? all->set().grads(0) : trunk.memory;
    VKMOE_TRY(words, download<float>(engine->device(), from, trunk.memory.size() / 4));
    trunk.unpack(words, out);
    for (uint32_t l = 0; l < trunk.config.layers; ++l) {
        const TrainableLayer& layer = mixtures->layer(l);
        auto read = of_gradients ? layer.downloadGradients(*engine, all->set(), all->firstSlab(l))
                                 : layer.downloadWeights(*engine);
        if (!read) return std::move(read).error();
        auto source = readBack(layer.master(), *read, "layer", of_gradients);
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
    VKMOE_TRY(moments, state_->all->save());
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
    for (size_t i = 0; i < count; ++i)
        if (out_of_range(saved.parameters[i]))
            return Error{ErrorCode::bad_input, fmt::format("the state's parameter {} is {}", i, saved.parameters[i])};
    VKMOE_TRY(trunk, Trunk::create(*s.engine, config(), saved.parameters));
    VKMOE_CHECK(s.all->restore({saved.step, saved.first, saved.second}));
    VKMOE_CHECK(s.mixtures->refill(config(), saved.parameters));
    s.scaler = LossScaler(s.options.scaler, saved.loss_scale, saved.loss_streak);
    Commands commands;
    commands.copy(trunk.memory, 0, s.trunk.memory, 0, trunk.memory.size());
    return submitAndWait(s.engine->device(), commands);
}

}  // namespace v1
}  // namespace vkmoe
