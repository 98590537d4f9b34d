// PagedTraining's steps: what a step finds in the gradients, and how experts take the steps that they missed.
#include <fmt/format.h>

#include "engine/train/paged_training.h"
#include "engine/train/squares_fault.h"
#include "host/views.h"

namespace vkmoe {
inline namespace v1 {
namespace {

constexpr size_t kMostSteps = 65536;    // that an expert may miss
constexpr uint32_t kSubmitSteps = 256;  // steps of a submit, for watchdogs

}  // namespace

// ---- results --------------------------------------------------------------------------------------------------------

uint64_t PagedTraining::sumsAt(uint32_t expert) const {
    return uint64_t{experts_} * 16 + expert * squaresPartials(words_) * 4;
}

const uint32_t* PagedTraining::result(uint64_t offset) const {
    return reinterpret_cast<const uint32_t*>(download_.mapped().data() + offset);
}

Result<void> PagedTraining::clearResults() {
    Commands commands;
    commands.fill(results_, 0, results_.size(), 0);
    return submit(commands, false);
}

Result<void> PagedTraining::fetch() {
    Commands commands;
    commands.barrier();
    commands.copy(results_, 0, download_, 0, sumsAt(experts_));
    return submit(commands, true);
}

std::string PagedTraining::place(uint32_t expert, uint64_t word) const {
    const Member& layer = memberOf(expert);
    uint32_t in_layer = expert % layer_experts_;
    for (const ParameterTensor& tensor : layer.tensors)
        if (tensor.offset <= word && word < tensor.offset + tensor.words)
            return fmt::format("{}experts.{}{}, word {}", layer.prefix, in_layer, tensor.name, word - tensor.offset);
    return fmt::format("{}experts, word {}, which is no tensor's", layer.prefix, in_layer * words_ + word);
}

// Gradients that are zero add nothing.
Result<void> PagedTraining::squares(float scale) {
    VKMOE_CHECK(attempt([&] { return clearResults(); }));
    auto sum = [&](Commands& into, uint32_t e) {
        GradSquares p{pointerTo<F32>(address(gradients, e)), results_.at<F32>(sumsAt(e)), results_.at<U32>(e * 8),
                      uint32_t(words_), scale};
        into.dispatch(*grad_squares_, p, squaresPartials(words_));
        return Result<void>();
    };
    VKMOE_CHECK(turn(withGradients(), {{gradients}, 0}, sum, {}));
    return attempt([&] { return fetch(); });
}

void PagedTraining::Layer::addSquares(SquareSum& sum) const {
    if (!sum.fault.empty()) return;
    const PagedTraining& all = *all_;
    SquaresFault fault;
    for (uint32_t e = index_ * all.layer_experts_; e < (index_ + 1) * all.layer_experts_; ++e) {
        fault.add(all.result(uint64_t{e} * 8), [&](uint64_t word) { return all.place(e, word); });
        const auto* sums = reinterpret_cast<const float*>(all.result(all.sumsAt(e)));
        for (uint64_t i = 0; i < squaresPartials(all.words_); ++i) sum.sum += double(sums[i]);
    }
    if (fault.count != 0) sum.fault = fault.text(all.layers_[index_].prefix + "experts");
}

// ---- steps ----------------------------------------------------------------------------------------------------------

// Weights of an expert that never had a gradient move only as they decay.
bool PagedTraining::isBehind(uint32_t expert) {
    if (!ever_[expert] && taken_[expert] >= decays_) taken_[expert] = steps_.size();
    return taken_[expert] < steps_.size();
}

// The steps that the expert, which is in memory, has yet to take; its gradient counts for the last, and is zero before.
Result<void> PagedTraining::makeSteps(Commands& commands, uint32_t e) {
    uint32_t recorded = 0;
    for (; taken_[e] < steps_.size(); ++taken_[e]) {
        Adamw p = steps_[taken_[e]];
        p.weights = pointerTo<F32>(address(weights, e));
        p.grads = pointerTo<F32>(address(gradients, e));
        p.first = pointerTo<F32>(address(first, e));
        p.second = pointerTo<F32>(address(second, e));
        p.status = results_.at<U32>((uint64_t{experts_} + e) * 8);
        p.count = p.page_words = uint32_t(words_);
        commands.dispatch(*adamw_, p, words_);
        commands.barrier();
        if (++recorded % kSubmitSteps == 0) VKMOE_CHECK(submit(commands, true));
    }
    return {};
}

Result<void> PagedTraining::stepAll(std::span<const uint32_t> experts) {
    VKMOE_CHECK(attempt([&] { return clearResults(); }));
    auto step = [&](Commands& into, uint32_t e) -> Result<void> {
        VKMOE_CHECK(makeSteps(into, e));
        if (has_gradient_[e]) zero(into, e);
        if (rounded()) memberOf(e).rounded->refreshExpert(into, e % layer_experts_);
        return {};
    };
    Needs needs{{weights, gradients, first, second}, 0b1111};
    if (rounded()) needs = {{weights, gradients, first, second, operands}, 0b11111};
    VKMOE_CHECK(turn(experts, needs, step, {}));
    VKMOE_CHECK(attempt([&] { return fetch(); }));
    for (uint32_t e : experts) {
        const uint32_t* status = result((uint64_t{experts_} + e) * 8);
        if (status[0] == 0) continue;
        return Error{ErrorCode::bad_input,
                     fmt::format("{}experts: {} weights or moments are not finite or not below 2^63 after step {}, "
                                 "the first in {}",
                                 memberOf(e).prefix, status[0], step_, place(e, ~status[1]))};
    }
    return {};
}

// The copies of weights that were not made by steps.
Result<void> PagedTraining::round(std::span<const uint32_t> experts) {
    auto one = [&](Commands& into, uint32_t e) {
        memberOf(e).rounded->refreshExpert(into, e % layer_experts_);
        return Result<void>();
    };
    return turn(experts, {{weights, operands}, 0b10}, one, {});
}

Result<void> PagedTraining::catchUp(std::span<const uint32_t> experts) {
    std::vector<uint32_t> behind;
    for (uint32_t e : experts)
        if (isBehind(e)) behind.push_back(e);
    if (behind.empty()) return {};
    return stepAll(behind);
}

Result<void> PagedTraining::adamw(const Adamw& numbers) {
    if (failure_) return *failure_;
    if (steps_.size() >= kMostSteps) VKMOE_CHECK(settle());
    steps_.push_back(numbers);
    ++step_;
    if (numbers.weight_decay != 0) decays_ = steps_.size();
    auto some = withGradients();
    auto done = some.empty() ? Result<void>() : stepAll(some);
    has_gradient_.assign(experts_, false);
    return done;
}

Result<void> PagedTraining::settle() {
    VKMOE_CHECK(catchUp(everyExpert()));
    steps_.clear();
    taken_.assign(experts_, 0);
    decays_ = 0;
    return {};
}

}  // namespace v1
}  // namespace vkmoe
