// LmTrainer's memory: what a micro-batch takes, whole or in chunks, and what would fit.
#include <fmt/format.h>

#include <algorithm>

#include "engine/models/lm_trainer_state.h"
#include "host/transfer.h"

namespace vkmoe {
inline namespace v1 {
namespace {

constexpr uint64_t kMostInChunks = 30000;                           // tokens: what sums over a micro-batch loop over
constexpr uint64_t kMostCountedInChunks = (uint64_t{1} << 24) - 1;  // assignments that f32 counts

// What activations may take: weights and moments must come back through something.
uint64_t leftFor(const Ledger& ledger) { return ledger.left() - std::min(ledger.left(), kLeastStaging); }

}  // namespace

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
                     BackwardWorkspace::bytesFor(d, chunk) +
                     allocatedBytes(uint64_t{tokens} * trunk.config.model_dim * 8);
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
    const uint64_t left = leftFor(ledger);
    uint32_t fit = 0;
    for (uint32_t step = 1u << 30; step != 0; step /= 2)
        if (fit + step < tokens && bytesFor(fit + step) <= left) fit += step;
    return fmt::format(
        "a micro-batch of {} tokens needs {} bytes for activations; {} of the budget of {} bytes are "
        "left for them, enough for {} tokens{}",
        tokens, bytesFor(tokens), left, ledger.budget(), fit, fewerBytes());
}

Result<void> LmTrainer::State::ensureActivations(uint64_t tokens) {
    if (activations && activations->capacity >= tokens) return {};
    activations.reset();
    backward.reset();
    carry.reset();
    scratch.reset();
    VKMOE_CHECK(checkTokens(tokens));
    if (bytesFor(uint32_t(tokens)) > leftFor(engine->device().ledger()))
        return Error{ErrorCode::out_of_memory, needs(uint32_t(tokens))};
    return allocate(uint32_t(tokens));
}

Result<void> LmTrainer::State::allocate(uint32_t tokens) {
    const Description d = mixtureDescription(trunk.config);
    Device& device = engine->device();
    const uint32_t chunk = chunkOf(tokens);
    if (chunk < tokens) VKMOE_CHECK(mixtures->prepare(true, fresh));  // pipelines, before memory is gone
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

}  // namespace v1
}  // namespace vkmoe
