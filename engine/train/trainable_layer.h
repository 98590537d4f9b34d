// TrainableLayer: a layer's weights in the forms that training needs, and its two passes. Masters are f32; in rounded
// precision the passes multiply by bf16 copies, made anew after each step.
#pragma once

#include <memory>

#include "engine/moe/forward_pass.h"
#include "engine/train/backward_pass.h"
#include "engine/train/read_back.h"

namespace vkmoe {
inline namespace v1 {

class TrainableLayer {
public:
    // Errors: unsupported for a layer that cannot be trained; what Weights::load has.
    static Result<std::unique_ptr<TrainableLayer>> create(Engine& engine, const formats::LayerSource& source,
                                                          Precision precision);
    TrainableLayer(const TrainableLayer&) = delete;

    const Description& description() const { return master_.description; }
    const Weights& master() const { return master_; }
    const Weights& compute() const { return rounded_ ? *rounded_ : master_; }  // what the passes multiply by
    const ForwardPass& forward() const { return *forward_; }
    const BackwardPass& backward() const { return *backward_; }

    // Makes the bf16 copies of what the masters are by then; nothing in exact precision.
    void refresh(Commands& commands) const;

    // Slabs with the masters' sizes, in their order, and one of the router's size last: where gradients may be. The
    // table for kernels is filled from their addresses.
    std::vector<uint64_t> slabBytes() const;
    Result<LayerGradients> gradients(Engine& engine, std::span<const uint64_t> slab_addresses);

private:
    TrainableLayer() = default;
    Result<void> buildRefresh(Engine& engine);
    void refreshFamily(Commands& commands, bool shared) const;

    Weights master_;
    std::unique_ptr<Weights> rounded_;
    std::unique_ptr<ForwardPass> forward_;
    std::unique_ptr<BackwardPass> backward_;
    const Kernel *round_ = nullptr, *copy_ = nullptr;
    Buffer gradient_table_;
};

}  // namespace v1
}  // namespace vkmoe
