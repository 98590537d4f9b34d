#include "engine/train/paged_training.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
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

// The file's weights, which are pages 0, 1, ... of the store.
Result<void> copyWeights(const formats::LayerSource& source, PageStore& store) {
    VKMOE_TRY(file, ExpertStore::create({source}, true));
    std::vector<std::byte> page(store.pageBytes(0)), scratch;
    for (PageId p = 0; p < file->pages(); ++p) {
        VKMOE_CHECK(file->read(p, page, scratch));
        VKMOE_CHECK(store.write(p, page));
    }
    return {};
}

}  // namespace

// ---- making ---------------------------------------------------------------------------------------------------------

Result<std::unique_ptr<PagedTraining>> PagedTraining::create(Engine& engine, const formats::LayerSource& source,
                                                             const Weights& layer, std::vector<ParameterTensor> tensors,
                                                             const TrainingPaging& options) {
    std::unique_ptr<PagedTraining> paged(new PagedTraining(engine, layer, std::move(tensors)));
    VKMOE_CHECK(paged->allocate());
    VKMOE_CHECK(paged->openPager(source, layer, options));
    VKMOE_TRY(adamw, engine.kernel(kernels().adamw, {}));
    VKMOE_TRY(squares, engine.kernel(kernels().grad_squares, {}));
    paged->adamw_ = adamw;
    paged->grad_squares_ = squares;
    return paged;
}

Result<void> PagedTraining::allocate() {
    Device& device = engine_->device();
    for (uint32_t kind = gradients; kind < kinds; ++kind) {
        VKMOE_TRY(table, upload(device, std::vector<uint64_t>(experts_ + 2), "table of pages"));
        tables_[kind] = std::move(table);
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

Result<void> PagedTraining::openPager(const formats::LayerSource& source, const Weights& layer,
                                      const TrainingPaging& options) {
    uint32_t pages = kinds * experts_;
    VKMOE_TRY(store, openStore(options.scratch, pages, words_ * 4));
    VKMOE_CHECK(copyWeights(source, *store));
    std::vector<PageGroup> groups;
    for (uint32_t kind = 0; kind < kinds; ++kind)
        groups.push_back({experts_, kind == weights ? &layer.table : &tables_[kind]});
    uint64_t all = pages * words_ * 4;
    PagerOptions settings{.device_budget = options.device_budget.value_or(all),
                          .host_budget = options.host_budget.value_or(std::min(all, hostMemory() / 2)),
                          .policy = options.policy,
                          .placement = options.placement,
                          .prefetch = false,
                          .readers = options.readers,
                          .unit = 4};
    VKMOE_TRY(pager, Pager::create(engine_->device(), std::move(store), std::move(groups), settings));
    pager_ = std::move(pager);
    if (pager_->slots(0) + pager_->slots(1) >= 4) return {};
    return Error{
        ErrorCode::out_of_memory,
        fmt::format("budgets of {} bytes on the device and {} on the host hold {} pages of {} bytes; an expert "
                    "in training needs 4",
                    settings.device_budget, settings.host_budget, pager_->slots(0) + pager_->slots(1), words_ * 4)};
}

Result<void> PagedTraining::setOthers(Kind kind, const Buffer& table) {
    Commands commands;
    commands.copy(table, uint64_t{experts_} * 8, tables_[kind], uint64_t{experts_} * 8, 16);
    return submitAndWait(engine_->device(), commands);
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

Result<void> PagedTraining::forward(std::span<const uint32_t> experts, const Record& record) {
    VKMOE_CHECK(catchUp(experts));
    return turn(experts, {{weights}, 0}, {}, record);
}

Result<void> PagedTraining::backward(std::span<const uint32_t> experts, Chunk chunk, const Record& record) {
    for (uint32_t e : experts) has_gradient_[e] = ever_[e] = true;
    if (chunk == Chunk::whole) return turn(experts, {{weights, gradients}, 0b10}, {}, record);
    uint32_t changes = chunk == Chunk::last ? 0b0010 : 0b1100;
    return turn(experts, {{weights, gradients, totals, partials}, changes}, {}, record);
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
    for (const ParameterTensor& tensor : tensors_)
        if (tensor.offset <= word && word < tensor.offset + tensor.words)
            return fmt::format("experts.{}{}, word {}", expert, tensor.name, word - tensor.offset);
    return fmt::format("experts, word {}, which is no tensor's", expert * words_ + word);
}

// Gradients that are zero add nothing.
Result<PagedTraining::Squares> PagedTraining::squares(float scale) {
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
    VKMOE_CHECK(fetch());
    Squares squares;
    SquaresFault fault;
    for (uint32_t e = 0; e < experts_; ++e) {
        fault.add(result(e * 8), [&](uint64_t word) { return place(e, word); });
        const auto* sums = reinterpret_cast<const float*>(result(sumsAt(e)));
        for (uint64_t i = 0; i < squaresPartials(words_); ++i) squares.sum += double(sums[i]);
    }
    if (fault.count != 0) squares.fault = fault.text("experts");
    return squares;
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
        return {};
    };
    VKMOE_CHECK(turn(experts, {{weights, gradients, first, second}, 0b1111}, step, {}));
    VKMOE_CHECK(fetch());
    for (uint32_t e : experts) {
        const uint32_t* status = result((uint64_t{experts_} + e) * 8);
        if (status[0] == 0) continue;
        return Error{ErrorCode::bad_input,
                     fmt::format("experts: {} weights or moments are not finite or not below 2^63 after step {}, the "
                                 "first in {}",
                                 status[0], step_, place(e, ~status[1]))};
    }
    return {};
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
    std::vector<uint32_t> all(experts_);
    std::iota(all.begin(), all.end(), 0u);
    VKMOE_CHECK(catchUp(all));
    steps_.clear();
    taken_.assign(experts_, 0);
    decays_ = 0;
    return {};
}

// ---- reading and restoring ------------------------------------------------------------------------------------------

Result<std::vector<std::vector<float>>> PagedTraining::read(Kind kind) {
    if (failure_) return *failure_;
    if (auto kept = pager_->writeBack(); !kept) {
        failure_ = kept.error();
        return *failure_;
    }
    std::vector<std::vector<float>> pages(experts_, std::vector<float>(words_));
    std::vector<std::byte> scratch;
    for (uint32_t e = 0; e < experts_; ++e)
        VKMOE_CHECK(pager_->store().read(pageOf(kind, e), std::as_writable_bytes(std::span(pages[e])), scratch));
    return pages;
}

Result<void> PagedTraining::restore(std::span<const float> first_moments, std::span<const float> second_moments,
                                    uint64_t step) {
    step_ = step;
    VKMOE_CHECK(settle());
    VKMOE_TRY(staged, engine_->device().allocate(words_ * 8, Memory::upload, "moments"));
    auto* to = reinterpret_cast<float*>(staged.mapped().data());
    auto put = [&](Commands& commands, uint32_t e) -> Result<void> {
        std::transform(first_moments.begin() + ptrdiff_t(e * words_),
                       first_moments.begin() + ptrdiff_t((e + 1) * words_), to, state_rule);
        std::transform(second_moments.begin() + ptrdiff_t(e * words_),
                       second_moments.begin() + ptrdiff_t((e + 1) * words_), to + words_, state_rule);
        for (Kind kind : {first, second}) {
            const Slot* slot = pager_->slotHolding(pageOf(kind, e));
            commands.copy(staged, kind == first ? 0 : words_ * 4, *slot->slab, slot->offset, words_ * 4);
        }
        return submit(commands, true);
    };
    std::vector<uint32_t> all(experts_);
    std::iota(all.begin(), all.end(), 0u);
    VKMOE_CHECK(turn(all, {{first, second}, 0b11}, put, {}));
    ever_.assign(experts_, true);
    return {};
}

PagingReport PagedTraining::report() const { return reportOf(*pager_); }

}  // namespace v1
}  // namespace vkmoe
