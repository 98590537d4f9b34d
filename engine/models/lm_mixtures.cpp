#include "engine/models/lm_mixtures.h"

#include <fmt/format.h>

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
                                      Precision precision, const std::optional<TrainingPaging>& paging) {
    LmMixtures all(engine);
    for (uint32_t l = 0; l < config.layers; ++l) {
        VKMOE_TRY(source, mixtureSource(config, parameters, l));
        VKMOE_TRY(layer, TrainableLayer::create(engine, source, precision, paging.has_value()));
        all.forwards_.push_back(&layer->forward());
        all.backwards_.push_back(&layer->backward());
        all.touched_.push_back(layer->touched().address());
        all.layers_.push_back(std::move(layer));
    }
    all.chosen_.resize(config.layers);
    if (paging && config.layers != 0) VKMOE_CHECK(all.page(config, parameters, *paging));
    return all;
}

Result<void> LmMixtures::page(const LmConfig& config, std::span<const float> parameters, const TrainingPaging& paging) {
    std::vector<PagedTraining::Member> members;
    for (uint32_t l = 0; l < count(); ++l) members.push_back(layers_[l]->member(prefix(l)));
    VKMOE_TRY(made, PagedTraining::create(*engine_, std::move(members), sourceOf(config, parameters), paging, false));
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

LmPass::Mixture LmMixtures::forward(const LmActivations& a, uint32_t tokens) {
    return [this, &a, tokens](Commands& commands, uint32_t l) -> Result<void> {
        const Workspace& w = a.mixtures[a.layers[l].workspace];
        if (!paged_) {
            forwards_[l]->recordOnDevice(commands, w, {.tokens = tokens});
            return {};
        }
        VKMOE_TRY(chosen,
                  forwardInPages(*engine_, *layers_[l], commands, w, {.tokens = tokens}, a.download, a.offsetsAt(l)));
        chosen_[l] = std::move(chosen);
        return {};
    };
}

LmPass::Mixture LmMixtures::again(const LmActivations& a, uint32_t tokens) {
    if (!paged_) return forward(a, tokens);
    return [this, &a, tokens](Commands& commands, uint32_t l) {
        const Workspace& w = a.mixtures[a.layers[l].workspace];
        return forwardInPages(*engine_, *layers_[l], commands, w, {.tokens = tokens}, chosen_[l]);
    };
}

LmPass::MixtureBackward LmMixtures::backward() {
    return [this](const BackwardPass::Recording& recording, uint32_t l) -> Result<void> {
        if (paged_) return backwardInPages(*engine_, *layers_[l], *backwards_[l], recording, chosen_[l]);
        backwards_[l]->record(recording);
        return {};
    };
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
