#include "engine/train/parameter_set.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "engine/train/squares_fault.h"
#include "engine/turn.h"
#include "host/transfer.h"
#include "host/views.h"

namespace vkmoe {
inline namespace v1 {
namespace {

bool owns(const Shard& shard, const ParameterTensor& tensor) { return tensor.position % shard.count == shard.index; }

void zero(Commands& commands, const Buffer& buffer) {
    if (buffer) commands.fill(buffer, 0, buffer.size(), 0);
}

}  // namespace

Result<ParameterSet> ParameterSet::create(Engine& engine, std::vector<ParameterSlab> slabs, Shard shard) {
    if (shard.index >= shard.count)
        return Error{ErrorCode::bad_input,
                     fmt::format("there is no shard {} of {}: the first of them is 0", shard.index, shard.count)};
    Turn turn(engine);
    ParameterSet set(engine, std::move(slabs));
    set.findRuns(shard);
    VKMOE_CHECK(set.checkBudget());
    VKMOE_CHECK(set.allocate());
    VKMOE_CHECK(set.build());
    return set;
}

void ParameterSet::findRuns(Shard shard) {
    sharded_ = shard.count > 1;
    for (size_t s = 0; s < slabs_.size(); ++s) {
        ParameterSlab& slab = slabs_[s];
        assert(slab.words < uint64_t{1} << 31);
        std::sort(slab.tensors.begin(), slab.tensors.end(),
                  [](const ParameterTensor& a, const ParameterTensor& b) { return a.offset < b.offset; });
        uint64_t moments = 0;
        auto add = [&](uint64_t offset, uint64_t words) {
            if (words == 0) return;
            if (moments != 0 && runs_.back().offset + runs_.back().words == offset)
                runs_.back().words += words;
            else
                runs_.push_back({s, offset, words, moments});
            moments += words;
        };
        if (!sharded_) add(0, slab.words);
        for (const ParameterTensor& tensor : slab.tensors) {
            assert(tensor.offset + tensor.words <= slab.words);
            if (sharded_ && owns(shard, tensor)) add(tensor.offset, tensor.words);
        }
        moment_words_.push_back(moments);
        owned_words_ += moments;
    }
}

// Pages of whole groups of grad_squares may be summed at once: no group has gradients of two.
void ParameterSet::findPieces() {
    for (size_t s = 0; s < slabs_.size(); ++s) {
        uint64_t words = slabs_[s].words, page = slabs_[s].page_words;
        uint64_t step = page == 0 || page % kSquaresGroup == 0 ? words : page;
        for (uint64_t at = 0; at < words; at += step) pieces_.push_back({s, at, std::min(step, words - at), 0});
    }
}

// Says at once what all will need: of the parts only the last, which does not fit, would be named.
Result<void> ParameterSet::checkBudget() const {
    uint64_t grads = 0;
    for (const ParameterSlab& slab : slabs_) grads += slab.words * 4;
    Ledger& ledger = engine_->device().ledger();
    uint64_t needed = grads + stateBytes();
    if (needed <= ledger.left()) return {};
    return Error{
        ErrorCode::out_of_memory,
        fmt::format("training needs {} bytes beside the weights, {} for gradients and {} for moments; {} of the "
                    "budget of {} bytes are in use",
                    needed, grads, stateBytes(), ledger.used(), ledger.budget())};
}

Result<void> ParameterSet::allocate() {
    Device& device = engine_->device();
    for (size_t s = 0; s < slabs_.size(); ++s) {
        const std::string& name = slabs_[s].name;
        VKMOE_TRY(grads, device.allocate(slabs_[s].words * 4, Memory::device, "gradients of " + name));
        grads_.push_back(std::move(grads));
        first_.emplace_back();
        second_.emplace_back();
        if (moment_words_[s] == 0) continue;
        VKMOE_TRY(first, device.allocate(moment_words_[s] * 4, Memory::device, "first moments of " + name));
        VKMOE_TRY(second, device.allocate(moment_words_[s] * 4, Memory::device, "second moments of " + name));
        first_.back() = std::move(first);
        second_.back() = std::move(second);
    }
    findPieces();
    weights_at_ = pieces_.size() * 8;
    results_bytes_ = weights_at_ + runs_.size() * 8;
    for (Piece& piece : pieces_) {
        piece.sums_at = results_bytes_;
        results_bytes_ += squaresPartials(piece.words) * 4;
    }
    VKMOE_TRY(results, device.allocate(results_bytes_, Memory::device, "sums of squared gradients"));
    VKMOE_TRY(download, device.allocate(results_bytes_, Memory::download, "sums of squared gradients, on their way"));
    results_ = std::move(results);
    download_ = std::move(download);
    Commands commands;
    for (const auto* buffers : {&grads_, &first_, &second_})
        for (const Buffer& buffer : *buffers) zero(commands, buffer);
    return submitAndWait(device, commands);
}

Result<void> ParameterSet::build() {
    VKMOE_TRY(plain, engine_->kernel(kernels().adamw, {}));
    VKMOE_TRY(squares, engine_->kernel(kernels().grad_squares, {}));
    adamw_ = plain;
    grad_squares_ = squares;
    if (std::none_of(slabs_.begin(), slabs_.end(), [](const ParameterSlab& slab) { return slab.touched != 0; }))
        return {};
    VKMOE_TRY(skip, engine_->kernel(kernels().adamw, {.skip = 1}));
    adamw_skip_ = skip;
    return {};
}

void ParameterSet::zeroGrads(Commands& commands, bool assigned) const {
    commands.barrier();
    for (size_t i = 0; i < slabs_.size(); ++i)
        if (assigned || !slabs_[i].assigned) zero(commands, grads_[i]);
    commands.barrier();
}

void ParameterSet::squares(Commands& commands, float scale) const {
    if (pieces_.empty()) return;
    commands.barrier();
    commands.fill(results_, 0, weights_at_, 0);
    commands.barrier();
    for (size_t i = 0; i < pieces_.size(); ++i) {
        const Piece& piece = pieces_[i];
        GradSquares p{grads_[piece.slab].at<F32>(piece.offset * 4), results_.at<F32>(piece.sums_at),
                      results_.at<U32>(i * 8), uint32_t(piece.words), scale};
        commands.dispatch(*grad_squares_, p, squaresPartials(piece.words));
    }
    commands.barrier();
    commands.copy(results_, 0, download_, 0, weights_at_);
    uint64_t sums = pieces_.front().sums_at;
    if (sums < results_bytes_) commands.copy(results_, sums, download_, sums, results_bytes_ - sums);
    commands.barrier();
}

const uint32_t* ParameterSet::result(uint64_t offset) const {
    return reinterpret_cast<const uint32_t*>(download_.mapped().data() + offset);
}

// "experts.3.up.weight, word 17", of a word of a slab.
std::string ParameterSet::place(size_t slab, uint64_t word) const {
    const ParameterTensor* tensor = nullptr;
    for (const ParameterTensor& next : slabs_[slab].tensors)
        if (next.offset <= word && word < next.offset + next.words) tensor = &next;
    return tensor ? fmt::format("{}, word {}", tensor->name, word - tensor->offset)
                  : fmt::format("{}, word {}, which is no tensor's", slabs_[slab].name, word);
}

void ParameterSet::addSquares(size_t first, size_t last, SquareSum& sum) const {
    SquaresFault fault;
    for (size_t i = 0; i < pieces_.size() && sum.fault.empty(); ++i) {
        const Piece& piece = pieces_[i];
        if (piece.slab < first || piece.slab >= last) continue;
        fault.add(result(i * 8), [&](uint64_t word) { return place(piece.slab, piece.offset + word); });
        if (fault.count != 0 && (i + 1 == pieces_.size() || pieces_[i + 1].slab != piece.slab))
            sum.fault = fault.text(slabs_[piece.slab].name);
        const auto* sums = reinterpret_cast<const float*>(result(piece.sums_at));
        for (uint64_t k = 0; k < squaresPartials(piece.words); ++k) sum.sum += double(sums[k]);
    }
}

bool ParameterSet::skips(const ParameterSlab& slab, const Adamw& numbers) const {
    return slab.touched != 0 && !sharded_ && numbers.weight_decay == 0;
}

void ParameterSet::adamw(Commands& commands, const AdamwOptions& options, double rate, double grad_scale, double clip) {
    clock_.advance(options);
    if (runs_.empty()) return;
    Adamw p = adamwParams(options, clock_, rate, grad_scale, clip);
    commands.barrier();
    commands.fill(results_, weights_at_, runs_.size() * 8, 0);
    commands.barrier();
    for (size_t i = 0; i < runs_.size(); ++i) {
        const Run& run = runs_[i];
        const ParameterSlab& slab = slabs_[run.slab];
        p.weights = pointerTo<F32>(slab.weights + run.offset * 4);
        p.grads = grads_[run.slab].at<F32>(run.offset * 4);
        p.first = first_[run.slab].at<F32>(run.moments * 4);
        p.second = second_[run.slab].at<F32>(run.moments * 4);
        p.touched = pointerTo<U32>(slab.touched);
        p.status = results_.at<U32>(weights_at_ + i * 8);
        p.count = uint32_t(run.words);
        p.page_words = slab.page_words != 0 ? slab.page_words : uint32_t(slab.words);
        commands.dispatch(skips(slab, p) ? *adamw_skip_ : *adamw_, p, run.words);
    }
    commands.barrier();
    commands.copy(results_, weights_at_, download_, weights_at_, runs_.size() * 8);
    commands.barrier();
}

Result<void> ParameterSet::checkWeights() const {
    for (size_t i = 0; i < runs_.size(); ++i) {
        const uint32_t* status = result(weights_at_ + i * 8);
        if (status[0] == 0) continue;
        return Error{ErrorCode::bad_input,
                     fmt::format("{}: {} weights or moments are not finite or not below 2^63 after step {}, the first "
                                 "in {}",
                                 slabs_[runs_[i].slab].name, status[0], step(),
                                 place(runs_[i].slab, runs_[i].offset + ~status[1]))};
    }
    return {};
}

}  // namespace v1
}  // namespace vkmoe
