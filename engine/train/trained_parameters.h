// TrainedParameters: all that an optimiser works on: a ParameterSet and, where routed experts are in pages,
// PagedTraining. Norms and checkpoints have the order of a set that holds everything: a layer's pages come before its
// other slabs.
//
//     VKMOE_CHECK(all.zeroGrads(commands, true));  // ... the passes, all.set().squares(commands, scale), submit ...
//     VKMOE_TRY(norm, all.gradNorm(scale));
//     VKMOE_CHECK(all.adamw(options, rate, grad_scale, clipFactor(options, norm.norm), {}));
#pragma once

#include <functional>

#include "engine/train/paged_training.h"
#include "engine/train/parameter_set.h"

namespace vkmoe {
inline namespace v1 {

class TrainedParameters {
public:
    // `first_slabs`: of each layer, in `set`. `paged`: of these layers, or null; outlives this.
    TrainedParameters(Engine& engine, ParameterSet set, std::vector<size_t> first_slabs, PagedTraining* paged)
        : engine_(&engine), set_(std::move(set)), first_slabs_(std::move(first_slabs)), paged_(paged) {}

    const ParameterSet& set() const { return set_; }
    size_t firstSlab(size_t layer) const { return first_slabs_[layer]; }
    uint64_t gradientBytes() const;  // of the set

    // Those of pages at once, the rest by `commands`; so do all that record.
    // `assigned`: see ParameterSet::zeroGrads.
    Result<void> zeroGrads(Commands& commands, bool assigned);
    // `kernel` is scale_gradients.
    Result<void> scaleGradients(Commands& commands, const Kernel& kernel, float before, float after);
    // Of all gradients times `scale`. What set().squares recorded with it has run.
    Result<GradNorm> gradNorm(float scale);
    // Makes a step, with what `then` records after it. Errors: as ParameterSet::checkWeights.
    Result<void> adamw(const AdamwOptions& options, double rate, double grad_scale, double clip,
                       const std::function<void(Commands&)>& then);

    Result<OptimizerState> save();
    // Errors: bad_input, and nothing has changed; of pages.
    Result<void> restore(const OptimizerState& state);

private:
    // Calls pages(layer) and slabs(first, last) in the order of all parameters.
    template <class Pages, class Slabs>
    Result<void> inOrder(const Pages& pages, const Slabs& slabs) const;
    uint64_t wordsOf(size_t first, size_t last) const;
    // Moments of all parameters, from those of pages and those of the set; and taken apart.
    struct Parts {
        PagedTraining::Moments pages;
        std::vector<float> others;
    };
    Result<std::vector<float>> joined(PagedTraining::Kind kind, const std::vector<float>& others) const;
    Parts parts(std::span<const float> moments) const;

    Engine* engine_;
    ParameterSet set_;
    std::vector<size_t> first_slabs_;
    PagedTraining* paged_;
};

}  // namespace v1
}  // namespace vkmoe
