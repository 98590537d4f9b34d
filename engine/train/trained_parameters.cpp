#include "engine/train/trained_parameters.h"

#include "host/transfer.h"

namespace vkmoe {
inline namespace v1 {

uint64_t TrainedParameters::wordsOf(size_t first, size_t last) const {
    uint64_t words = 0;
    for (size_t slab = first; slab < last; ++slab) words += set_.slabs()[slab].words;
    return words;
}

uint64_t TrainedParameters::gradientBytes() const { return wordsOf(0, set_.slabs().size()) * 4; }

template <class Pages, class Slabs>
Result<void> TrainedParameters::inOrder(const Pages& pages, const Slabs& slabs) const {
    size_t done = 0;
    for (uint32_t l = 0; l < first_slabs_.size(); ++l) {
        slabs(std::exchange(done, first_slabs_[l]), first_slabs_[l]);
        VKMOE_CHECK(pages(l));
    }
    slabs(done, set_.slabs().size());
    return {};
}

// ---- steps ----------------------------------------------------------------------------------------------------------

Result<void> TrainedParameters::zeroGrads(Commands& commands, bool assigned) {
    set_.zeroGrads(commands, assigned);
    return paged_ ? paged_->zeroGradients() : Result<void>();
}

Result<void> TrainedParameters::scaleGradients(Commands& commands, const Kernel& kernel, float before, float after) {
    commands.barrier();
    for (size_t i = 0; i < set_.slabs().size(); ++i) {
        auto count = uint32_t(set_.slabs()[i].words);
        commands.dispatch(kernel, ScaleGradients{set_.grads(i).at<F32>(), count, before, after, 0}, count);
    }
    commands.barrier();
    return paged_ ? paged_->scaleGradients(kernel, before, after) : Result<void>();
}

Result<GradNorm> TrainedParameters::gradNorm(float scale) {
    if (!paged_) return set_.gradNorm();
    VKMOE_CHECK(paged_->squares(scale));
    SquareSum sum;
    auto pages = [&](uint32_t layer) {
        PagedTraining::Layer(*paged_, layer).addSquares(sum);
        return Result<void>();
    };
    VKMOE_CHECK(inOrder(pages, [&](size_t first, size_t last) { set_.addSquares(first, last, sum); }));
    return sum.norm();
}

Result<void> TrainedParameters::adamw(const AdamwOptions& options, double rate, double grad_scale, double clip,
                                      const std::function<void(Commands&)>& then) {
    Commands commands;
    set_.adamw(commands, options, rate, grad_scale, clip);
    if (then) then(commands);
    VKMOE_CHECK(submitAndWait(engine_->device(), commands));
    if (paged_) VKMOE_CHECK(paged_->adamw(adamwParams(options, set_.clock(), rate, grad_scale, clip)));
    return set_.checkWeights();
}

// ---- checkpoints ----------------------------------------------------------------------------------------------------

Result<std::vector<float>> TrainedParameters::joined(PagedTraining::Kind kind, const std::vector<float>& others) const {
    std::vector<float> all;
    all.reserve(others.size() + first_slabs_.size() * paged_->layerWords());
    auto from = others.begin();
    auto pages = [&](uint32_t layer) -> Result<void> {
        VKMOE_TRY(read, PagedTraining::Layer(*paged_, layer).read(kind));
        for (const auto& page : read) all.insert(all.end(), page.begin(), page.end());
        return {};
    };
    auto slabs = [&](size_t first, size_t last) {
        auto end = from + ptrdiff_t(wordsOf(first, last));
        all.insert(all.end(), from, end);
        from = end;
    };
    VKMOE_CHECK(inOrder(pages, slabs));
    return all;
}

TrainedParameters::Parts TrainedParameters::parts(std::span<const float> moments) const {
    Parts parts;
    auto take = [&](uint64_t words) {
        auto some = moments.first(words);
        moments = moments.subspan(words);
        return some;
    };
    auto pages = [&](uint32_t) {
        parts.pages.push_back(take(paged_->layerWords()));
        return Result<void>();
    };
    auto slabs = [&](size_t first, size_t last) {
        auto some = take(wordsOf(first, last));
        parts.others.insert(parts.others.end(), some.begin(), some.end());
    };
    (void)inOrder(pages, slabs);
    return parts;
}

Result<OptimizerState> TrainedParameters::save() {
    VKMOE_TRY(state, set_.save());
    if (!paged_) return state;
    VKMOE_TRY(first, joined(PagedTraining::first, state.first));
    VKMOE_TRY(second, joined(PagedTraining::second, state.second));
    return OptimizerState{state.step, std::move(first), std::move(second)};
}

Result<void> TrainedParameters::restore(const OptimizerState& state) {
    if (!paged_) return set_.restore(state);
    VKMOE_CHECK(checkMoments(state, first_slabs_.size() * paged_->layerWords() + set_.stateBytes() / 8));
    Parts first = parts(state.first), second = parts(state.second);
    VKMOE_CHECK(set_.restore({state.step, std::move(first.others), std::move(second.others)}));
    return paged_->restore(first.pages, second.pages, state.step);
}

}  // namespace v1
}  // namespace vkmoe
