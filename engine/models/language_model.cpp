#include "vkmoe/language_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "engine/formats/bf16_layer.h"
#include "engine/formats/check_values.h"
#include "engine/models/lm_pass.h"
#include "engine/models/sampler.h"
#include "engine/moe/expert_turn.h"
#include "engine/moe/paged_experts.h"
#include "engine/turn.h"
#include "host/transfer.h"
#include "host/views.h"

namespace vkmoe {
inline namespace v1 {
namespace {

constexpr uint32_t kChunk = 256;  // tokens of a pass
constexpr uint32_t kMostVocabulary = 1u << 20, kMostTaps = 16384;

Result<void> checkIds(std::span<const uint32_t> tokens, uint32_t vocabulary) {
    for (size_t i = 0; i < tokens.size(); ++i)
        if (tokens[i] >= vocabulary)
            return Error{ErrorCode::bad_input,
                         fmt::format("token {} is {}, but the vocabulary has {}", i, tokens[i], vocabulary)};
    return {};
}

}  // namespace

struct LanguageModel::State {
    Engine* engine;
    Trunk trunk;
    std::vector<std::unique_ptr<Weights>> weights;
    std::vector<ForwardPass> mixtures;
    std::vector<const ForwardPass*> passes;
    std::optional<LmPass> pass;
    std::optional<LmActivations> activations;

    std::unique_ptr<PagedExperts> paged = {};  // null: everything is on the device
    std::vector<Visit>* trace = nullptr;
    std::vector<Visit> visits;
    std::vector<std::array<uint32_t, 4>> host_status;  // [layers] with pages: what the host's share counted

    Result<void> addMixtures(const formats::LmSource& source, const PagingOptions* paging, Precision precision);
    Result<void> openPages(std::vector<formats::LayerSource> sources, const PagingOptions& paging);
    Result<void> recordForward(Commands& commands, uint32_t tokens);
    Result<void> mixtureInTurns(Commands& commands, uint32_t layer, uint32_t tokens);
    void notePages(uint32_t tokens);
    uint64_t routesAt(uint32_t layer) const;
    std::vector<PageId> pagesIn(uint32_t layer, uint64_t routes, uint32_t tokens) const;
    std::vector<PageId> pagesUsed(uint32_t layer, uint32_t tokens) const {
        return pagesIn(layer, routesAt(layer), tokens);
    }
    Result<void> ensureActivations(size_t tokens);
    Result<void> run(std::span<const uint32_t> tokens, uint32_t position, uint32_t first_row, std::vector<float>& out);
    // Runs tokens from `position` on; the logits of all of them, or of the last one alone.
    Result<std::vector<float>> feed(std::span<const uint32_t> tokens, uint32_t position, bool all);
};

LanguageModel::LanguageModel(std::unique_ptr<State> state) : state_(std::move(state)) {}
LanguageModel::LanguageModel(LanguageModel&&) noexcept = default;
LanguageModel& LanguageModel::operator=(LanguageModel&& other) noexcept {
    std::swap(state_, other.state_);
    return *this;
}
LanguageModel::~LanguageModel() {
    if (!state_) return;
    Turn turn(*state_->engine);
    state_.reset();
}

const LmConfig& LanguageModel::config() const { return state_->trunk.config; }

// Each layer's mixture from the file; with pages, without its routed experts.
Result<void> LanguageModel::State::addMixtures(const formats::LmSource& source, const PagingOptions* paging,
                                               Precision precision) {
    std::vector<formats::LayerSource> sources;
    for (uint32_t l = 0; l < trunk.config.layers; ++l) {
        formats::LayerSource mixture = mixtureInFile(source, l);
        if (precision == Precision::rounded) mixture = formats::asBf16(std::move(mixture));
        auto loaded = paging ? Weights::loadUnpaged(*engine, mixture) : Weights::load(*engine, mixture);
        if (!loaded) return std::move(loaded).error();
        weights.push_back(std::make_unique<Weights>(std::move(loaded).value()));
        VKMOE_TRY(forward, ForwardPass::create(*engine, *weights.back(), precision, false));
        mixtures.push_back(std::move(forward));
        sources.push_back(std::move(mixture));
    }
    return paging && !sources.empty() ? openPages(std::move(sources), *paging) : Result<void>();
}

Result<void> LanguageModel::State::openPages(std::vector<formats::LayerSource> sources, const PagingOptions& paging) {
    std::vector<const Buffer*> tables;
    for (const auto& layer : weights) tables.push_back(&layer->table);
    VKMOE_TRY(made, PagedExperts::open(*engine, std::move(sources), tables, paging));
    paged = std::move(made);
    if (paging.trace) trace = &visits;
    host_status.resize(trunk.config.layers);
    for (size_t l = 1; l < mixtures.size() && paged->pager().prefetches(); ++l)
        VKMOE_CHECK(mixtures[l].prepareGuess(*engine));
    return {};
}

Result<LanguageModel> LanguageModel::create(Engine& engine, const formats::LmSource& source, Precision precision) {
    return create(engine, source, nullptr, precision);
}

Result<LanguageModel> LanguageModel::create(Engine& engine, const formats::LmSource& source,
                                            const PagingOptions& paging, Precision precision) {
    return create(engine, source, &paging, precision);
}

Result<LanguageModel> LanguageModel::create(Engine& engine, const formats::LmSource& source,
                                            const PagingOptions* paging, Precision precision) {
    if (source.config.vocab_size > kMostVocabulary || source.config.conv_kernel > kMostTaps)
        return Error{ErrorCode::unsupported,
                     fmt::format("vocabSize is {} and convKernel {}: {} and {} are the most", source.config.vocab_size,
                                 source.config.conv_kernel, kMostVocabulary, kMostTaps)};
    VKMOE_CHECK(formats::checkBeforeLoading(*source.bytes, source.tensors, paging != nullptr));
    Turn turn(engine);
    VKMOE_TRY(trunk, Trunk::create(engine, source));
    auto state = std::make_unique<State>();
    state->engine = &engine;
    state->trunk = std::move(trunk);
    VKMOE_CHECK(state->addMixtures(source, paging, precision));
    for (const ForwardPass& mixture : state->mixtures) state->passes.push_back(&mixture);
    VKMOE_TRY(pass, LmPass::create(engine, state->trunk, false));
    state->pass = std::move(pass);
    return LanguageModel(std::move(state));
}

const Pager* LanguageModel::pager() const { return state_->paged ? &state_->paged->pager() : nullptr; }

std::optional<PagingReport> LanguageModel::takePaging() {
    if (!state_->paged) return std::nullopt;
    PagingReport report = state_->paged->report();
    report.visits = std::exchange(state_->visits, {});
    state_->paged->startReport();
    return report;
}

Result<void> LanguageModel::State::ensureActivations(size_t tokens) {
    const Description d = mixtureDescription(trunk.config);
    size_t most = std::min(kChunk, Workspace::largestCapacity(d, d.top_k));
    auto capacity = uint32_t(std::min(tokens, most));
    if (activations && activations->capacity >= capacity) return {};
    activations.reset();
    VKMOE_TRY(made,
              LmActivations::create(engine->device(), trunk.config, d, capacity, capacity, LmKeep::nothing, true));
    activations = std::move(made);
    return {};
}

// Without pages in the file all of it at once.
Result<void> LanguageModel::State::recordForward(Commands& commands, uint32_t tokens) {
    const LmActivations& a = *activations;
    bool turns = paged && !paged->pager().allResident();
    if (paged && !turns) VKMOE_CHECK(paged->pager().rebalance(commands));
    auto mixture = [&](Commands& into, uint32_t l, const LmChunk&) -> Result<void> {
        if (turns) return mixtureInTurns(into, l, tokens);
        const Workspace& w = a.mixtures[a.layers[l].workspace];
        mixtures[l].recordOnDevice(into, w, {.tokens = tokens});
        if (paged) mixtures[l].recordRoutes(into, w, tokens, a.download, routesAt(l));
        return {};
    };
    VKMOE_CHECK(pass->forward(commands, a, mixture, tokens));
    for (const LmChunk& chunk : a.cut(tokens)) pass->logits(commands, a, chunk);  // one
    return {};
}

// The routes come back to the host, which brings the experts' pages, wave by wave; with them who the next layer's
// router would choose.
Result<void> LanguageModel::State::mixtureInTurns(Commands& commands, uint32_t l, uint32_t tokens) {
    const LmActivations& a = *activations;
    const Workspace& w = a.mixtures[a.layers[l].workspace];
    Pager& pager = paged->pager();
    HostExperts* host = paged->host();
    const ExpertTurn turn{&mixtures[l], &w, tokens, pager.groups().first(l)};
    mixtures[l].recordHead(commands, w, {.tokens = tokens});
    mixtures[l].recordRoutes(commands, w, tokens, a.download, routesAt(l));
    if (host) host->recordInputs(commands, pager, turn);
    const bool guessed = l + 1 < mixtures.size() && pager.readsAhead() &&
                         mixtures[l + 1].guessFits(weights[l]->description, trunk.config.top_k);
    if (guessed) mixtures[l + 1].recordGuess(commands, w, tokens, a.download, a.back.guess);
    VKMOE_TRY(value, pager.submit(commands));
    VKMOE_CHECK(engine->device().wait(value));
    auto pages = pagesUsed(l, tokens);
    if (trace) addVisit(*trace, {l, pages});
    VKMOE_CHECK(runExperts(commands, pager, host, turn, pages));
    if (host) host_status[l] = host->takeStatus();
    if (guessed)
        pager.readAhead(pagesIn(l + 1, a.back.guess, tokens));
    else
        pager.readLikely(l + 1 < mixtures.size() ? l + 1 : 0);
    mixtures[l].recordTail(commands, w, tokens);
    return {};
}

void LanguageModel::State::notePages(uint32_t tokens) {
    for (uint32_t l = 0; l < trunk.config.layers; ++l) {
        auto pages = pagesUsed(l, tokens);
        paged->pager().note(l, pages);
        if (trace) addVisit(*trace, {l, std::move(pages)});
    }
}

// Where a layer's routes go in the download buffer: after everything else.
uint64_t LanguageModel::State::routesAt(uint32_t l) const {
    const LmActivations& a = *activations;
    return a.back.routes + uint64_t{l} * a.capacity * trunk.config.top_k * 4;
}

std::vector<PageId> LanguageModel::State::pagesIn(uint32_t l, uint64_t at, uint32_t tokens) const {
    auto ids = view<uint32_t>(activations->download, at, size_t{tokens} * trunk.config.top_k);
    return pagesOf(paged->pager().groups().first(l), trunk.config.experts, ids);
}

Result<void> LanguageModel::State::run(std::span<const uint32_t> tokens, uint32_t position, uint32_t first_row,
                                       std::vector<float>& out) {
    const LmActivations& a = *activations;
    uint32_t count = uint32_t(tokens.size());
    uint64_t row = uint64_t{trunk.config.vocab_size} * 4;
    LmInputs inputs;
    inputs.add(tokens, position);
    pass->fill(*activations, inputs);
    Commands commands;
    VKMOE_CHECK(recordForward(commands, count));
    pass->shiftHistory(commands, a, count);
    pass->downloadResults(commands, a, count);
    commands.copy(a.memory, a.logits + first_row * row, a.download, a.back.logits, (count - first_row) * row);
    VKMOE_TRY(value, paged ? paged->pager().submit(commands) : engine->device().submit(commands));
    VKMOE_CHECK(engine->device().wait(value));
    VKMOE_CHECK(pass->check(a, count, passes, position, host_status));
    if (paged && paged->pager().allResident()) notePages(count);
    auto values = view<float>(a.download, a.back.logits, (count - first_row) * (row / 4));
    out.insert(out.end(), values.begin(), values.end());
    return {};
}

Result<std::vector<float>> LanguageModel::State::feed(std::span<const uint32_t> tokens, uint32_t position, bool all) {
    std::vector<float> logits;
    if (position == 0) VKMOE_CHECK(ensureActivations(tokens.size()));
    if (paged) VKMOE_CHECK(paged->pager().begin());
    for (size_t first = 0; first < tokens.size();) {
        size_t count = std::min<size_t>(tokens.size() - first, activations->capacity);
        bool last = first + count == tokens.size();
        if (!all) logits.clear();
        VKMOE_CHECK(run(tokens.subspan(first, count), position + uint32_t(first),
                        all ? 0 : uint32_t(last ? count - 1 : count), logits));
        first += count;
    }
    return logits;
}

Result<std::vector<float>> LanguageModel::logits(std::span<const uint32_t> tokens) {
    Turn turn(*state_->engine);
    VKMOE_CHECK(checkIds(tokens, config().vocab_size));
    return state_->feed(tokens, 0, true);
}

Result<std::vector<uint32_t>> LanguageModel::generate(std::span<const uint32_t> prompt,
                                                      const GenerateOptions& options) {
    Turn turn(*state_->engine);
    VKMOE_CHECK(checkIds(prompt, config().vocab_size));
    if (std::isnan(options.temperature))
        return Error{ErrorCode::bad_input, fmt::format("temperature is {}", options.temperature)};
    Sampler sampler(options.temperature, options.seed);
    std::vector<uint32_t> made, pending(prompt.begin(), prompt.end());
    uint32_t position = 0;
    bool started_from_zero = prompt.empty();
    if (started_from_zero) pending = {0};
    while (made.size() < options.max_new_tokens) {
        VKMOE_TRY(logits, state_->feed(pending, position, false));
        position = started_from_zero ? 0 : position + uint32_t(pending.size());  // the 0 is not part of the text
        started_from_zero = false;
        made.push_back(sampler.next(logits));
        pending = {made.back()};
        bool stop = options.on_token && !options.on_token(made.back());
        if (stop || (options.stop && *options.stop == made.back())) break;
    }
    return made;
}

}  // namespace v1
}  // namespace vkmoe
