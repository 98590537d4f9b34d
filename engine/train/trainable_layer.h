// TrainableLayer: a layer's weights in the forms that training needs, and its two passes. Masters are f32; in rounded
// precision the passes multiply by bf16 copies, made anew after each step.
#pragma once

#include <memory>
#include <optional>

#include "engine/moe/forward_pass.h"
#include "engine/train/backward_pass.h"
#include "engine/train/paged_training.h"
#include "engine/train/parameter_set.h"
#include "engine/train/read_back.h"
#include "engine/train/rounded_weights.h"

namespace vkmoe {
inline namespace v1 {

class TrainableLayer {
public:
    // Errors: unsupported for a layer that cannot be trained; what Weights::load has. With `in_pages` it has no routed
    // experts until page() gives it them.
    static Result<std::unique_ptr<TrainableLayer>> create(Engine& engine, const formats::LayerSource& source,
                                                          Precision precision, bool in_pages = false);
    TrainableLayer(const TrainableLayer&) = delete;

    const Description& description() const { return master_.description; }
    const Weights& master() const { return master_; }
    const Weights& compute() const { return rounded_ ? rounded_->weights() : master_; }  // what the passes multiply by
    const Buffer& touched() const { return touched_; }
    const ForwardPass& forward() const { return *forward_; }

    // Null: the routed experts' memory is master()'s and a ParameterSet's.
    const PagedTraining::Layer* paged() const { return paged_ ? &*paged_ : nullptr; }
    PagedTraining::Member member(const std::string& prefix) const;  // what PagedTraining is to know of it
    void page(PagedTraining& all, uint32_t index) { paged_.emplace(all, index); }

    uint64_t weightBytes() const { return master_.bytes + (rounded_ ? rounded_->weights().bytes : 0); }

    // Makes the bf16 copies of what the masters are by then; nothing in exact precision.
    void refresh(Commands& commands) const {
        if (rounded_) rounded_->refresh(commands);
    }

    // What an optimiser works on: the slabs of pages, the router, the shared expert's gate. Names start with `prefix`;
    // tensors are numbered from `position` on, which is left behind the last.
    std::vector<ParameterSlab> slabs(const std::string& prefix, uint32_t& position) const;

    // Where the passes find the gradients of those slabs, the first of which is `first` of the set.
    Result<LayerGradients> gradients(Engine& engine, const ParameterSet& set, size_t first);
    // The same table for other memory with the set's layout.
    Result<Buffer> pageTable(Engine& engine, std::span<const Buffer> slabs) const;
    uint64_t pageTableBytes() const { return (uint64_t{description().experts} + 2) * 8; }
    // The backward pass of a form, made at the first call.
    Result<const BackwardPass*> backward(Engine& engine, BackwardPass::Form form);
    // Their values on the host, and those of the weights.
    Result<LayerMemory> downloadGradients(Engine& engine, const ParameterSet& set, size_t first) const;
    Result<LayerMemory> downloadWeights(Engine& engine) const;

private:
    TrainableLayer() = default;
    Result<Buffer> tableOf(Engine& engine, std::span<const uint64_t> slabs) const;
    Result<void> addPages(LayerMemory& memory, PagedTraining::Kind kind) const;

    Weights master_;
    std::optional<PagedTraining::Layer> paged_;
    std::optional<RoundedWeights> rounded_;
    std::unique_ptr<ForwardPass> forward_;
    std::unique_ptr<BackwardPass> backward_[4];  // one a form
    Precision precision_ = Precision::exact;
    Buffer gradient_table_;
    Buffer touched_;  // [experts] tokens that the expert ever had, as count_tokens counts
};

}  // namespace v1
}  // namespace vkmoe
