#include "engine/train/paged_training.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cassert>
#include <cstring>
#include <map>
#include <numeric>

#include "engine/moe/expert_store.h"
#include "engine/moe/paged_experts.h"
#include "engine/train/squares_fault.h"
#include "host/host_memory.h"
#include "host/ram_store.h"
#include "host/scratch_store.h"
#include "host/transfer.h"
#include "host/views.h"
#include "shaders/exact_math.h"

namespace vkmoe {
inline namespace v1 {
namespace {

constexpr size_t kMostSteps = 65536;    // that an expert may miss
constexpr uint32_t kSubmitSteps = 256;  // steps of a submit, for watchdogs

Result<std::unique_ptr<PageStore>> openStore(const std::string& scratch, uint32_t pages, uint64_t page_bytes) {
    if (scratch.empty()) return std::unique_ptr<PageStore>(std::make_unique<RamStore>(pages, page_bytes));
    VKMOE_TRY(store, ScratchStore::create(scratch, pages, page_bytes));
    return std::unique_ptr<PageStore>(std::move(store));
}

// A layer's weights, which are pages `first`, `first` + 1, ... of the store.
Result<void> copyWeights(formats::LayerSource source, PageStore& store, PageId first) {
    VKMOE_TRY(file, ExpertStore::create({std::move(source)}, true));
    std::vector<std::byte> page(store.pageBytes(0)), scratch;
    for (PageId p = 0; p < file->pages(); ++p) {
        VKMOE_CHECK(file->read(p, page, scratch));
        VKMOE_CHECK(store.write(first + p, page));
    }
    return {};
}

}  // namespace

// ---- making ---------------------------------------------------------------------------------------------------------

Result<std::unique_ptr<PagedTraining>> PagedTraining::create(Engine& engine, std::vector<Member> layers,
                                                             const Source& source, const TrainingPaging& options,
                                                             bool chunks) {
    std::unique_ptr<PagedTraining> paged(new PagedTraining(engine, std::move(layers), chunks));
    VKMOE_CHECK(paged->allocate());
    VKMOE_CHECK(paged->openPager(source, options));
    VKMOE_TRY(adamw, engine.kernel(kernels().adamw, {}));
    VKMOE_TRY(squares, engine.kernel(kernels().grad_squares, {}));
    paged->adamw_ = adamw;
    paged->grad_squares_ = squares;
    if (paged->rounded()) VKMOE_CHECK(paged->round(paged->everyExpert()));
    return paged;
}

std::vector<PagedTraining::Kind> PagedTraining::kindsFor(bool rounded, bool chunks) {
    std::vector<Kind> used = {weights, gradients, first, second};
    if (rounded) used.push_back(operands);
    if (chunks) used.insert(used.end(), {totals, partials});
    return used;
}

PageId PagedTraining::pageOf(Kind kind, uint32_t expert) const {
    return PageId(std::find(used_.begin(), used_.end(), kind) - used_.begin()) * experts_ + expert;
}

const Buffer& PagedTraining::tableOf(Kind kind, uint32_t layer) const {
    if (kind == weights) return layers_[layer].weights->table;
    return kind == operands ? layers_[layer].rounded->weights().table : tables_[kind][layer];
}

Result<void> PagedTraining::allocate() {
    Device& device = engine_->device();
    for (Kind kind : used_)
        for (size_t l = 0; kind != weights && kind != operands && l < layers_.size(); ++l) {
            assert(layers_[l].weights->routed.bytes() / 4 == words_);
            assert(layers_[l].weights->description.experts == layer_experts_);
            VKMOE_TRY(table, upload(device, std::vector<uint64_t>(layer_experts_ + 2), "table of pages"));
            tables_[kind].push_back(std::move(table));
        }
    uint64_t bytes = sumsAt(experts_);
    VKMOE_TRY(results, device.allocate(bytes, Memory::device, "sums of squared gradients of pages"));
    VKMOE_TRY(download, device.allocate(bytes, Memory::download, "sums of squared gradients of pages, on their way"));
    results_ = std::move(results);
    download_ = std::move(download);
    has_gradient_.resize(experts_);
    ever_.resize(experts_);
    taken_.resize(experts_);
    return {};
}

Result<void> PagedTraining::openPager(const Source& source, const TrainingPaging& options) {
    auto pages = uint32_t(used_.size()) * experts_;
    VKMOE_TRY(store, openStore(options.scratch, pages, words_ * 4));
    std::vector<PageGroup> groups;
    for (uint32_t l = 0; l < layers_.size(); ++l) {
        VKMOE_TRY(file, source(l));
        VKMOE_CHECK(copyWeights(std::move(file), *store, pageOf(weights, l * layer_experts_)));
    }
    for (Kind kind : used_)
        for (uint32_t l = 0; l < layers_.size(); ++l) groups.push_back({layer_experts_, &tableOf(kind, l)});
    const uint32_t together = rounded() ? 5 : 4;  // pages of an expert in a step
    uint64_t all = pages * words_ * 4;
    PagerOptions settings{.device_budget = options.device_budget.value_or(all),
                          .host_budget = options.host_budget.value_or(std::min(all, hostMemory() / 2)),
                          .policy = options.policy,
                          .placement = options.placement,
                          .prefetch = options.prefetch,
                          .readers = options.readers,
                          .unit = together};
    VKMOE_TRY(pager, Pager::create(engine_->device(), std::move(store), std::move(groups), settings));
    pager_ = std::move(pager);
    trace_ = options.trace;
    chosen_.resize(layers_.size());
    uint32_t readable = pager_->flat() ? pager_->slots(0) + pager_->slots(1) : pager_->slots(1);
    if (readable >= together) return {};
    return Error{
        ErrorCode::out_of_memory,
        fmt::format("budgets of {} bytes on the device and {} on the host hold {} pages of {} bytes; an expert "
                    "in training needs {}",
                    settings.device_budget, settings.host_budget, pager_->slots(0) + pager_->slots(1), words_ * 4,
                    together)};
}

// ---- turns ----------------------------------------------------------------------------------------------------------

Result<void> PagedTraining::submit(Commands& commands, bool wait) {
    ++submits_;
    VKMOE_TRY(value, engine_->device().submit(commands));
    pager_->submitted(value);
    commands = {};
    return wait ? engine_->device().wait(value) : Result<void>();
}

Result<void> PagedTraining::tryTurn(std::span<const uint32_t> experts, const Needs& needs, const Each& each,
                                    const Record& all) {
    std::vector<PageId> pages;
    for (uint32_t expert : experts)
        for (Kind kind : needs.kinds) pages.push_back(pageOf(kind, expert));
    note(pages);
    auto unit = uint32_t(needs.kinds.size());
    VKMOE_CHECK(pager_->start(pages, unit, needs.changes));
    while (!pager_->done()) {
        Commands commands;
        VKMOE_CHECK(pager_->next(commands));
        if (all) all(commands);
        auto wave = pager_->wave();
        uint64_t before = submits_;
        for (size_t i = 0; each && i < wave.size(); i += unit) VKMOE_CHECK(each(commands, wave[i] % experts_));
        // The pager holds a wave's slots for its first submit only: what is submitted later must be over before the
        // next.
        VKMOE_CHECK(submit(commands, submits_ != before));
    }
    return {};
}

void PagedTraining::note(std::span<const PageId> pages) {
    if (!trace_) return;
    std::map<uint32_t, std::vector<PageId>> of_group;
    for (PageId page : pages) of_group[pager_->groups().of(page)].push_back(page);
    for (auto& [group, used] : of_group) visits_.push_back({group, std::move(used)});
}

Result<void> PagedTraining::turn(std::span<const uint32_t> experts, const Needs& needs, const Each& each,
                                 const Record& all) {
    if (failure_) return *failure_;
    auto done = tryTurn(experts, needs, each, all);
    if (!done) failure_ = done.error();
    return done;
}

void PagedTraining::zero(Commands& commands, uint32_t expert) const {
    const Slot* slot = pager_->slotHolding(pageOf(gradients, expert));
    commands.fill(*slot->slab, slot->offset, words_ * 4, 0);
}

std::vector<uint32_t> PagedTraining::withGradients() const {
    std::vector<uint32_t> some;
    for (uint32_t e = 0; e < experts_; ++e)
        if (has_gradient_[e]) some.push_back(e);
    return some;
}

Result<void> PagedTraining::zeroGradients() {
    auto clear = [&](Commands& commands, uint32_t expert) {
        zero(commands, expert);
        return Result<void>();
    };
    VKMOE_CHECK(turn(withGradients(), {{gradients}, 1}, clear, {}));
    has_gradient_.assign(experts_, false);
    return {};
}

Result<void> PagedTraining::scaleGradients(const Kernel& kernel, float before, float after) {
    auto scale = [&](Commands& commands, uint32_t e) {
        ScaleGradients p{pointerTo<F32>(address(gradients, e)), uint32_t(words_), before, after, 0};
        commands.dispatch(kernel, p, words_);
        return Result<void>();
    };
    return turn(withGradients(), {{gradients}, 1}, scale, {});
}

// ---- a layer --------------------------------------------------------------------------------------------------------

Result<void> PagedTraining::Layer::setOthers(Kind kind, const Buffer& from) const {
    uint64_t at = uint64_t{all_->layer_experts_} * 8;
    Commands commands;
    commands.copy(from, at, table(kind), at, 16);
    return submitAndWait(all_->engine_->device(), commands);
}

std::vector<uint32_t> PagedTraining::Layer::ofAll(std::span<const uint32_t> experts) const {
    std::vector<uint32_t> numbered(experts.begin(), experts.end());
    for (uint32_t& expert : numbered) expert += index_ * all_->layer_experts_;
    return numbered;
}

Result<void> PagedTraining::Layer::forward(std::span<const uint32_t> some, const Record& record) const {
    auto experts = ofAll(some);
    VKMOE_CHECK(all_->catchUp(experts));
    all_->chosen_[index_] = experts;
    return all_->turn(experts, {{all_->multiplied()}, 0}, {}, record);
}

Result<void> PagedTraining::Layer::backward(std::span<const uint32_t> some, Chunk chunk, bool operands,
                                            const Record& record) const {
    assert(chunk == Chunk::whole || all_->uses(totals));
    auto experts = ofAll(some);
    for (uint32_t e : experts) all_->has_gradient_[e] = all_->ever_[e] = true;
    Needs needs{{gradients}, 0b1};
    if (chunk != Chunk::whole) needs = {{gradients, totals, partials}, chunk == Chunk::last ? 0b001u : 0b110u};
    if (operands) {
        needs.kinds.insert(needs.kinds.begin(), all_->multiplied());
        needs.changes <<= 1;
    }
    return all_->turn(experts, needs, {}, record);
}

void PagedTraining::readAhead(std::span<const uint32_t> experts, std::span<const Kind> each) {
    std::vector<PageId> pages;
    for (uint32_t expert : experts)
        for (Kind kind : each) pages.push_back(pageOf(kind, expert));
    pager_->readAhead(pages);
}

void PagedTraining::Layer::expectForward() const {
    const bool is_last = index_ + 1 == all_->chosen_.size();
    const Kind operand = all_->multiplied(), gradient = gradients;
    all_->readAhead(all_->chosen_[is_last ? index_ : index_ + 1], std::span(is_last ? &gradient : &operand, 1));
}

void PagedTraining::Layer::expectBackward() const {
    if (index_ > 0) all_->readAhead(all_->chosen_[index_ - 1], std::array{all_->multiplied(), gradients});
}

// ---- results --------------------------------------------------------------------------------------------------------

uint64_t PagedTraining::sumsAt(uint32_t expert) const {
    return uint64_t{experts_} * 16 + expert * squaresPartials(words_) * 4;
}

const uint32_t* PagedTraining::result(uint64_t offset) const {
    return reinterpret_cast<const uint32_t*>(download_.mapped().data() + offset);
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
    if (failure_) return *failure_;
    Commands commands;
    commands.fill(results_, 0, results_.size(), 0);
    VKMOE_CHECK(submit(commands, false));
    auto sum = [&](Commands& into, uint32_t e) {
        GradSquares p{pointerTo<F32>(address(gradients, e)), results_.at<F32>(sumsAt(e)), results_.at<U32>(e * 8),
                      uint32_t(words_), scale};
        into.dispatch(*grad_squares_, p, squaresPartials(words_));
        return Result<void>();
    };
    VKMOE_CHECK(turn(withGradients(), {{gradients}, 0}, sum, {}));
    return fetch();
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
    Commands commands;
    commands.fill(results_, 0, results_.size(), 0);
    VKMOE_CHECK(submit(commands, false));
    auto step = [&](Commands& into, uint32_t e) -> Result<void> {
        VKMOE_CHECK(makeSteps(into, e));
        if (has_gradient_[e]) zero(into, e);
        if (rounded()) memberOf(e).rounded->refreshExpert(into, e % layer_experts_);
        return {};
    };
    Needs needs{{weights, gradients, first, second}, 0b1111};
    if (rounded()) needs = {{weights, gradients, first, second, operands}, 0b11111};
    VKMOE_CHECK(turn(experts, needs, step, {}));
    VKMOE_CHECK(fetch());
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

// ---- reading and restoring ------------------------------------------------------------------------------------------

std::vector<uint32_t> PagedTraining::expertsOf(uint32_t layer) const {
    std::vector<uint32_t> experts(layer_experts_);
    std::iota(experts.begin(), experts.end(), layer * layer_experts_);
    return experts;
}

std::vector<uint32_t> PagedTraining::everyExpert() const {
    std::vector<uint32_t> experts(experts_);
    std::iota(experts.begin(), experts.end(), 0u);
    return experts;
}

Result<std::vector<std::vector<float>>> PagedTraining::Layer::read(Kind kind) const {
    if (kind != gradients) VKMOE_CHECK(all_->settle());
    return all_->read(kind, index_);
}

Result<std::vector<std::vector<float>>> PagedTraining::read(Kind kind, uint32_t layer) {
    if (failure_) return *failure_;
    if (auto kept = pager_->writeBack(); !kept) {
        failure_ = kept.error();
        return *failure_;
    }
    std::vector<std::vector<float>> pages;
    std::vector<std::byte> scratch;
    for (uint32_t e : expertsOf(layer)) {
        auto& page = pages.emplace_back(words_);
        VKMOE_CHECK(pager_->store().read(pageOf(kind, e), std::as_writable_bytes(std::span(page)), scratch));
    }
    return pages;
}

Result<void> PagedTraining::put(std::span<const uint32_t> experts, const std::vector<Kind>& into, const Fill& fill) {
    VKMOE_TRY(staged, engine_->device().allocate(into.size() * words_ * 4, Memory::upload, "pages to restore"));
    auto* values = reinterpret_cast<float*>(staged.mapped().data());
    auto copy = [&](Commands& commands, uint32_t e) -> Result<void> {
        VKMOE_CHECK(fill(e, {values, into.size() * words_}));
        for (size_t i = 0; i < into.size(); ++i) {
            const Slot* slot = pager_->slotHolding(pageOf(into[i], e));
            commands.copy(staged, i * words_ * 4, *slot->slab, slot->offset, words_ * 4);
        }
        return submit(commands, true);
    };
    return turn(experts, {into, (1u << into.size()) - 1}, copy, {});
}

Result<void> PagedTraining::restore(const Moments& first_moments, const Moments& second_moments, uint64_t step) {
    step_ = step;
    VKMOE_CHECK(settle());
    auto fill = [&](uint32_t e, std::span<float> into) {
        float* to = into.data();
        for (const Moments* moments : {&first_moments, &second_moments}) {
            auto page = (*moments)[e / layer_experts_].subspan(e % layer_experts_ * words_, words_);
            to = std::transform(page.begin(), page.end(), to, state_rule);
        }
        return Result<void>();
    };
    VKMOE_CHECK(put(everyExpert(), {first, second}, fill));
    ever_.assign(experts_, true);
    return {};
}

Result<void> PagedTraining::refill(const Source& source) {
    VKMOE_CHECK(settle());
    std::vector<std::byte> scratch;
    for (uint32_t l = 0; l < layers_.size(); ++l) {
        VKMOE_TRY(layer, source(l));
        VKMOE_TRY(file, ExpertStore::create({std::move(layer)}, true));
        auto fill = [&](uint32_t e, std::span<float> into) {
            return file->read(e % layer_experts_, std::as_writable_bytes(into), scratch);
        };
        VKMOE_CHECK(put(expertsOf(l), {weights}, fill));
    }
    if (rounded()) VKMOE_CHECK(round(everyExpert()));
    return {};
}

PagingReport PagedTraining::report() const { return reportOf(*pager_); }

}  // namespace v1
}  // namespace vkmoe
