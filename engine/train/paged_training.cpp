#include "engine/train/paged_training.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cassert>
#include <numeric>

#include "engine/moe/expert_store.h"
#include "engine/moe/paged_experts.h"
#include "host/host_memory.h"
#include "host/ram_store.h"
#include "host/scratch_store.h"
#include "host/transfer.h"
#include "host/views.h"
#include "shaders/exact_math.h"

namespace vkmoe {
inline namespace v1 {
namespace {

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
    VKMOE_TRY(value, pager_->submit(commands));
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

void PagedTraining::note(std::vector<PageId> pages) {
    if (!trace_) return;
    std::sort(pages.begin(), pages.end());
    pager_->groups().split(pages, [&](uint32_t group, std::span<const PageId> used) {
        addVisit(visits_, {group, {used.begin(), used.end()}});
    });
}

Result<void> PagedTraining::attempt(const std::function<Result<void>()>& work) {
    if (failure_) return *failure_;
    auto done = work();
    if (!done) failure_ = done.error();
    return done;
}

Result<void> PagedTraining::turn(std::span<const uint32_t> experts, const Needs& needs, const Each& each,
                                 const Record& all) {
    return attempt([&] { return tryTurn(experts, needs, each, all); });
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
    VKMOE_CHECK(attempt([&] { return pager_->writeBack(); }));
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
