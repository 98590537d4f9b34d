#include "engine/models/lm_mixtures.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "engine/train/paged_passes.h"
#include "host/transfer.h"

namespace vkmoe {
inline namespace v1 {
namespace {

PagedTraining::Source sourceOf(const LmConfig& config, std::span<const float> parameters) {
    return [&config, parameters](uint32_t l) { return mixtureSource(config, parameters, l); };
}

}  // namespace

std::string LmMixtures::prefix(uint32_t layer) { return fmt::format("layers.{}.moe.", layer); }

Result<LmMixtures> LmMixtures::create(Engine& engine, const LmConfig& config, std::span<const float> parameters,
                                      Precision precision, const std::optional<TrainingPaging>& paging, bool chunks) {
    LmMixtures all(engine);
    for (uint32_t l = 0; l < config.layers; ++l) {
        VKMOE_TRY(source, mixtureSource(config, parameters, l));
        VKMOE_TRY(layer, TrainableLayer::create(engine, source, precision, paging.has_value()));
        all.forwards_.push_back(&layer->forward());
        all.touched_.push_back(layer->touched().address());
        all.layers_.push_back(std::move(layer));
    }
    all.chosen_.resize(config.layers);
    if (paging && config.layers != 0) VKMOE_CHECK(all.page(config, parameters, *paging, chunks));
    VKMOE_CHECK(all.prepare(false, true));
    return all;
}

Result<void> LmMixtures::page(const LmConfig& config, std::span<const float> parameters, const TrainingPaging& paging,
                              bool chunks) {
    std::vector<PagedTraining::Member> members;
    for (uint32_t l = 0; l < count(); ++l) members.push_back(layers_[l]->member(prefix(l)));
    VKMOE_TRY(made, PagedTraining::create(*engine_, std::move(members), sourceOf(config, parameters), paging, chunks));
    paged_ = std::move(made);
    for (uint32_t l = 0; l < count(); ++l) layers_[l]->page(*paged_, l);
    return {};
}

uint64_t LmMixtures::weightBytes() const {
    uint64_t bytes = 0;
    for (const auto& layer : layers_) bytes += layer->weightBytes();
    return bytes;
}

// ---- passes ---------------------------------------------------------------------------------------------------------

LmPass::Mixture LmMixtures::forward(const LmActivations& a) {
    return [this, &a](Commands& commands, uint32_t l, const LmChunk& chunk) -> Result<void> {
        const Workspace& w = a.mixture(l, chunk);
        if (!paged_) {
            forwards_[l]->recordOnDevice(commands, w, {.tokens = chunk.tokens});
            return {};
        }
        VKMOE_TRY(chosen, forwardInPages(*engine_, *layers_[l], commands, w, {.tokens = chunk.tokens}, a.download,
                                         a.offsetsAt(l, chunk)));
        chosen_[l].resize(std::max<size_t>(chosen_[l].size(), chunk.index + 1));
        chosen_[l][chunk.index] = std::move(chosen);
        return {};
    };
}

LmPass::Mixture LmMixtures::again(const LmActivations& a) {
    if (!paged_) return forward(a);
    return [this, &a](Commands& commands, uint32_t l, const LmChunk& chunk) {
        return forwardInPages(*engine_, *layers_[l], commands, a.mixture(l, chunk), {.tokens = chunk.tokens},
                              chosen_[l][chunk.index]);
    };
}

Result<void> LmMixtures::prepare(bool carry, bool fresh) {
    backwards_.clear();
    for (auto& layer : layers_) {
        VKMOE_TRY(pass, layer->backward(*engine_, {.carry = carry, .fresh = fresh && !paged_}));
        backwards_.push_back(pass);
    }
    return {};
}

Result<LmPass::MixtureBackward> LmMixtures::backward(const LmCarry* carry, bool fresh) {
    VKMOE_CHECK(prepare(carry != nullptr, fresh));
    return LmPass::MixtureBackward(
        [this, carry](const BackwardPass::Recording& r, uint32_t l, const LmChunk& chunk) -> Result<void> {
            if (carry) return chunkBackward(r, l, chunk, *carry);
            if (paged_) return backwardInPages(*engine_, *layers_[l], *backwards_[l], r, chosen_[l][0]);
            backwards_[l]->record(r);
            return {};
        });
}

// ---- chunks ---------------------------------------------------------------------------------------------------------

Result<void> LmMixtures::prepareChunks(const LmCarry& carry) {
    if (!paged_) return {};
    for (auto& layer : layers_) {
        VKMOE_CHECK(layer->paged()->setOthers(PagedTraining::totals, carry.totals));
        VKMOE_CHECK(layer->paged()->setOthers(PagedTraining::partials, carry.partials));
    }
    return {};
}

// Pages are there for the experts of a chunk; after the last one, for those that any chunk left sums for.
Result<void> LmMixtures::chunkBackward(const BackwardPass::Recording& r, uint32_t l, const LmChunk& chunk,
                                       const LmCarry& carry) {
    const PagedTraining::Layer* paged = layers_[l]->paged();
    BackwardPass::Batch batch = r.batch;
    batch.totals = paged ? paged->table(PagedTraining::totals).address() : carry.totals.address();
    batch.partials = paged ? paged->table(PagedTraining::partials).address() : carry.partials.address();
    batch.carried = carry.carried.address();
    batch.last = chunk.is_last;
    const BackwardPass::Recording in_chunk{r.commands, r.f, r.b, r.g, batch};
    if (!paged) {
        backwards_[l]->record(in_chunk);
        return {};
    }
    using Kind = PagedTraining::Chunk;
    const auto experts = chunk.is_last ? chosenInAll(l, chunk.index + 1) : chosen_[l][chunk.index];
    return backwardInPages(*engine_, *layers_[l], *backwards_[l], in_chunk, experts,
                           chunk.is_last ? Kind::last : Kind::some);
}

std::vector<uint32_t> LmMixtures::chosenInAll(uint32_t l, uint32_t chunks) const {
    std::set<uint32_t> all;
    for (uint32_t c = 0; c < chunks; ++c) all.insert(chosen_[l][c].begin(), chosen_[l][c].end());
    return {all.begin(), all.end()};
}

// ---- other parameters -----------------------------------------------------------------------------------------------

Result<void> LmMixtures::refill(const LmConfig& config, std::span<const float> parameters) {
    auto source = sourceOf(config, parameters);
    Commands commands;
    for (uint32_t l = 0; l < count(); ++l) {
        VKMOE_TRY(mixture, source(l));
        VKMOE_CHECK(layers_[l]->master().fill(*engine_, mixture));
        commands.fill(layers_[l]->touched(), 0, uint64_t{config.experts} * 4, 1);
        layers_[l]->refresh(commands);
    }
    VKMOE_CHECK(submitAndWait(engine_->device(), commands));
    return paged_ ? paged_->refill(source) : Result<void>();
}

}  // namespace v1
}  // namespace vkmoe
