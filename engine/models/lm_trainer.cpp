#include "vkmoe/lm_trainer.h"

#include <fmt/format.h>

#include "engine/models/lm_trainer_state.h"
#include "engine/turn.h"
#include "host/transfer.h"
#include "shaders/exact_math.h"

namespace vkmoe {
inline namespace v1 {
namespace {

constexpr uint64_t kMostTrainedVocabulary = 200000, kMostTrainedTaps = 16384;

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
    if (o.paging && o.shard.count != 1)
        return Error{ErrorCode::unsupported,
                     fmt::format("a shard of {} machines and pages are not for one trainer", o.shard.count)};
    return checkWeight("z_weight", o.z_weight);
}

}  // namespace

LmTrainer::LmTrainer(std::unique_ptr<State> state) : state_(std::move(state)) {}
LmTrainer::LmTrainer(LmTrainer&&) noexcept = default;
LmTrainer& LmTrainer::operator=(LmTrainer&& other) noexcept {
    std::swap(state_, other.state_);
    return *this;
}
LmTrainer::~LmTrainer() {
    if (!state_) return;
    Turn turn(*state_->engine);
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

const Pager* LmTrainer::pager() const {
    return state_->mixtures->paged() ? &state_->mixtures->paged()->pager() : nullptr;
}

std::span<const Visit> LmTrainer::visits() const {
    if (!state_->mixtures->paged()) return {};
    return state_->mixtures->paged()->visits();
}

// ---- building -------------------------------------------------------------------------------------------------------

Result<LmTrainer> LmTrainer::create(Engine& engine, const formats::LmSource& source, const LmTrainerOptions& options) {
    VKMOE_CHECK(validate(options.adamw));
    VKMOE_CHECK(validate(options.schedule));
    VKMOE_CHECK(checkLimits(source.config, options));
    Turn turn(engine);
    if (!options.paging && options.shard.count == 1)
        VKMOE_CHECK(checkTrainable(parameterCount(source.config), engine.device().ledger().left()));
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
    VKMOE_TRY(made, ParameterSet::create(*engine, std::move(slabs), options.shard));
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
    Turn turn(*state_->engine);
    return state_->flatten(true);
}

Result<std::vector<float>> LmTrainer::parameters() {
    Turn turn(*state_->engine);
    return state_->flatten(false);
}

Result<LmTrainerState> LmTrainer::state() {
    Turn turn(*state_->engine);
    VKMOE_TRY(parameters, state_->flatten(false));
    VKMOE_TRY(moments, state_->all->save());
    return LmTrainerState{std::move(parameters), std::move(moments.first), std::move(moments.second),
                          moments.step,          state_->scaler.scale(),   state_->scaler.streak()};
}

Result<void> LmTrainer::restore(const LmTrainerState& saved) {
    State& s = *state_;
    Turn turn(*s.engine);
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
