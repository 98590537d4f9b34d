// LmMixtures: a language model's mixtures of experts in training, on the device or with routed experts in pages, which
// all layers' experts share the memory for.
#pragma once

#include <optional>

#include "engine/models/lm_pass.h"
#include "engine/train/trainable_layer.h"

namespace vkmoe {
inline namespace v1 {

class LmMixtures {
public:
    // From all parameters in canonical order. `chunks`: micro-batches may come in chunks. Errors: as TrainableLayer and
    // PagedTraining.
    static Result<LmMixtures> create(Engine& engine, const LmConfig& config, std::span<const float> parameters,
                                     Precision precision, const std::optional<TrainingPaging>& paging, bool chunks);

    static std::string prefix(uint32_t layer);  // "layers.0.moe."

    uint32_t count() const { return uint32_t(layers_.size()); }
    TrainableLayer& layer(uint32_t l) const { return *layers_[l]; }
    PagedTraining* paged() const { return paged_.get(); }  // null: everything is on the device
    std::span<const ForwardPass* const> forwards() const { return forwards_; }
    std::span<const BackwardPass* const> backwards() const { return backwards_; }
    std::span<const uint64_t> touched() const { return touched_; }  // TrainableLayer::touched's addresses
    uint64_t weightBytes() const;

    // What LmPass asks of mixtures. Experts in pages: the pass is submitted piece by piece, and waits once a layer and
    // chunk on its way forward.
    LmPass::Mixture forward(const LmActivations& a);
    LmPass::Mixture again(const LmActivations& a);
    // `carry`: of a micro-batch in chunks, after prepareChunks with it; null: it is whole. `fresh`: gradients of
    // experts begin anew, unless routed ones are in pages; else they are added to what is there. Its passes are made at
    // the first call, which takes some drivers seconds: see prepare.
    Result<LmPass::MixtureBackward> backward(const LmCarry* carry, bool fresh);
    Result<void> prepare(bool carry, bool fresh);  // makes these passes
    Result<void> prepareChunks(const LmCarry& carry);

    // Other parameters in the place of these; every expert counts as used. Errors: as create.
    Result<void> refill(const LmConfig& config, std::span<const float> parameters);

private:
    explicit LmMixtures(Engine& engine) : engine_(&engine) {}
    Result<void> page(const LmConfig& config, std::span<const float> parameters, const TrainingPaging& paging,
                      bool chunks);
    Result<void> chunkBackward(const BackwardPass::Recording& recording, uint32_t l, const LmChunk& chunk,
                               const LmCarry& carry);
    std::vector<uint32_t> chosenInAll(uint32_t l, uint32_t chunks) const;

    Engine* engine_;
    std::vector<std::unique_ptr<TrainableLayer>> layers_;
    std::unique_ptr<PagedTraining> paged_;
    std::vector<const ForwardPass*> forwards_;
    std::vector<const BackwardPass*> backwards_;  // those prepared last
    std::vector<uint64_t> touched_;
    // [layers][chunks] experts with tokens in the last pass forward, ascending, in pages.
    std::vector<std::vector<std::vector<uint32_t>>> chosen_;
};

}  // namespace v1
}  // namespace vkmoe
