// Running a batch: chunk by chunk, each through both passes, with experts in memory or in pages.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>

#include "engine/train/layer_batch.h"
#include "host/transfer.h"
#include "host/views.h"

namespace vkmoe {
inline namespace v1 {
namespace {

using Clock = std::chrono::steady_clock;

constexpr uint64_t kMostCounted = (uint64_t{1} << 24) - 1;  // assignments that f32 counts

// Adds each expert's softmax probability over all tokens, in double.
void addProbabilities(std::span<const float> logits, std::vector<double>& sums) {
    size_t experts = sums.size();
    std::vector<double> row(experts);
    for (size_t at = 0; at + experts <= logits.size(); at += experts) {
        auto of_token = logits.subspan(at, experts);
        double largest = *std::max_element(of_token.begin(), of_token.end()), sum = 0;
        for (size_t e = 0; e < experts; ++e) sum += row[e] = std::exp(double(of_token[e]) - largest);
        for (size_t e = 0; e < experts; ++e) sums[e] += row[e] / sum;
    }
}

}  // namespace

Result<double> LayerBatch::submit(const Commands& commands) const {
    auto start = Clock::now();
    VKMOE_CHECK(submitAndWait(engine_->device(), commands));
    return std::chrono::duration<double>(Clock::now() - start).count();
}

// Of the last pass, from its workspace.
Result<SlotTable> LayerBatch::slots() const {
    const Workspace& w = *workspace_;
    SlotTable table{std::vector<uint32_t>(size_t{layer_->description().experts} + 1),
                    std::vector<uint32_t>(size_t{w.capacity} * w.width)};
    Device& device = engine_->device();
    VKMOE_CHECK(downloadBytes(device, w.memory, w.offsets, std::as_writable_bytes(std::span(table.offsets))));
    VKMOE_CHECK(downloadBytes(device, w.memory, w.token_of, std::as_writable_bytes(std::span(table.token_of))));
    return table;
}

Result<void> LayerBatch::check(const Chunk& chunk) const {
    VKMOE_CHECK(layer_->forward().check(view<uint32_t>(download_, at_.forward, 2 * Workspace::kStatusRows).data(),
                                        layer_->description().top_k, chunk.first, [&] { return slots(); }));
    auto loss = view<uint32_t>(download_, at_.loss_status, 2);
    if (loss[0] != 0)
        return Error{ErrorCode::bad_input,
                     fmt::format("the targets: {} differences to the outputs are not finite or not below 2^63 in size",
                                 loss[0])};
    return backwardPass(chunk).check(
        view<uint32_t>(download_, at_.backward, 2 * BackwardWorkspace::kStatusRows).data());
}

void LayerBatch::collect(const BatchWork& work, const Chunk& chunk, BatchResult& result) const {
    const Description& d = layer_->description();
    for (float loss : view<float>(download_, at_.losses, chunk.tokens)) result.loss += double(loss);
    addProbabilities(view<float>(download_, at_.logits, size_t{chunk.tokens} * d.experts), result.probabilities);
    auto offsets = view<uint32_t>(download_, at_.offsets, d.experts + 1);
    for (uint32_t e = 0; e < d.experts; ++e) result.tokens[e] += offsets[e + 1] - offsets[e];
    if (work.squared_error) return;
    auto grad_in = view<float>(download_, 0, size_t{chunk.tokens} * d.model_dim);
    result.grad_in.insert(result.grad_in.end(), grad_in.begin(), grad_in.end());
}

void LayerBatch::recordBegin(Commands& commands, const BatchWork& work, const Chunk& chunk) const {
    if (chunk.is_first && work.begin) work.begin(commands);
    if (chunk.is_first && !chunk.whole) commands.fill(carry_->carried, 0, carry_->carried.size(), 0);
}

Result<void> LayerBatch::runChunk(const BatchWork& work, const Chunk& chunk, uint64_t tokens, BatchResult& result) {
    if (layer_->paged()) return runPaged(work, chunk, tokens, result);
    upload(work, chunk);
    Commands commands;
    recordBegin(commands, work, chunk);
    recordForward(commands, work, chunk);
    if (work.apart) {
        VKMOE_TRY(seconds, submit(commands));
        result.forward_seconds += seconds;
        commands = {};
    }
    recordUpstream(commands, work, chunk);
    recordBackward(commands, work, chunk, tokens);
    if (chunk.is_last && work.finish) work.finish(commands);
    recordDownloads(commands, work, chunk);
    VKMOE_TRY(seconds, submit(commands));
    result.backward_seconds += seconds;
    VKMOE_CHECK(check(chunk));
    collect(work, chunk, result);
    return {};
}

// ---- experts in pages -----------------------------------------------------------------------------------------------

// The last chunk adds what earlier ones left, of all experts of the batch.
Result<void> LayerBatch::backwardPaged(const BatchWork& work, const Chunk& chunk, uint64_t tokens) {
    using Kind = PagedTraining::Chunk;
    Kind kind = chunk.whole ? Kind::whole : chunk.is_last ? Kind::last : Kind::some;
    const auto& experts = chunk.is_last ? batch_experts_ : chunk_experts_;
    auto batch = backwardBatch(work, chunk, tokens);
    Commands commands;
    recordUpstream(commands, work, chunk);
    recordAllCounts(commands, chunk);
    VKMOE_CHECK(backwardInPages(*engine_, *layer_, backwardPass(chunk),
                                {commands, *workspace_, *backward_, gradients_, batch}, experts, kind));
    if (!chunk.whole) carryOn(commands, chunk, tokens);
    if (chunk.is_last && work.finish) work.finish(commands);
    recordDownloads(commands, work, chunk);
    return submitAndWait(engine_->device(), commands);
}

Result<void> LayerBatch::runPaged(const BatchWork& work, const Chunk& chunk, uint64_t tokens, BatchResult& result) {
    auto start = Clock::now();
    upload(work, chunk);
    Commands commands;
    recordBegin(commands, work, chunk);
    recordInput(commands, chunk);
    VKMOE_TRY(experts, forwardInPages(*engine_, *layer_, commands, *workspace_, forwardBatch(work, chunk), download_,
                                      at_.offsets));
    VKMOE_CHECK(submitAndWait(engine_->device(), commands));
    std::vector<uint32_t> all;
    std::set_union(experts.begin(), experts.end(), batch_experts_.begin(), batch_experts_.end(),
                   std::back_inserter(all));
    chunk_experts_ = std::move(experts);
    batch_experts_ = std::move(all);
    auto half = Clock::now();
    VKMOE_CHECK(backwardPaged(work, chunk, tokens));
    result.forward_seconds += std::chrono::duration<double>(half - start).count();
    result.backward_seconds += std::chrono::duration<double>(Clock::now() - half).count();
    VKMOE_CHECK(check(chunk));
    collect(work, chunk, result);
    return {};
}

// The balance loss wants the whole batch's counts before its first backward pass.
Result<void> LayerBatch::countAll(const BatchWork& work, uint64_t tokens) {
    Commands commands;
    commands.fill(counts_, 0, counts_.size(), 0);
    for (uint64_t first = 0; first < tokens; first += workspace_->capacity) {
        Chunk chunk{uint32_t(first), uint32_t(std::min<uint64_t>(workspace_->capacity, tokens - first)), false, false,
                    false};
        upload(work, chunk);
        recordInput(commands, chunk);
        layer_->forward().recordHead(commands, *workspace_, forwardBatch(work, chunk));
        recordCounts(commands, counts_.address());
        commands.barrier();
        VKMOE_TRY(seconds, submit(commands));
        (void)seconds;
        commands = {};
    }
    return {};
}

Result<BatchResult> LayerBatch::run(const BatchWork& work) {
    const Description& d = layer_->description();
    uint64_t tokens = work.x.size() / d.model_dim;
    uint64_t most = work.balance_scale != 0 ? kMostCounted : UINT32_MAX;
    if (tokens * d.top_k > most)
        return Error{ErrorCode::bad_input,
                     fmt::format("a batch of {} samples, {} each to top_k experts, is too large: {} "
                                 "assignments are the most{}",
                                 tokens, d.top_k, most, work.balance_scale != 0 ? " with a balance loss" : "")};
    VKMOE_CHECK(ensure(tokens));
    bool whole = tokens <= workspace_->capacity;
    if (!whole) VKMOE_CHECK(ensureCarry(tokens));
    if (!whole && work.balance_scale != 0) VKMOE_CHECK(countAll(work, tokens));
    BatchResult result;
    batch_experts_.clear();
    result.probabilities.resize(d.experts);
    result.tokens.resize(d.experts);
    for (uint64_t first = 0; first < tokens;) {
        auto count = uint32_t(std::min<uint64_t>(workspace_->capacity, tokens - first));
        Chunk chunk{uint32_t(first), count, first == 0, first + count == tokens, whole};
        VKMOE_CHECK(runChunk(work, chunk, tokens, result));
        first += count;
    }
    return result;
}

}  // namespace v1
}  // namespace vkmoe
