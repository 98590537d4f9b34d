// What a batch needs in memory, and what its passes record.
#include "engine/train/layer_batch.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "host/views.h"

namespace vkmoe {
inline namespace v1 {
namespace {

constexpr uint64_t kMostGateTokens = 30000;  // shared_gate_backward's loop

}  // namespace

Result<LayerBatch> LayerBatch::create(Engine& engine, TrainableLayer& layer, const ParameterSet& set,
                                      uint32_t max_chunk) {
    LayerBatch batch(engine, layer, set, max_chunk);
    VKMOE_TRY(gradients, layer.gradients(engine, set, 0));
    batch.gradients_ = gradients;
    VKMOE_TRY(whole, batch.makeBackward(false));
    batch.whole_ = whole;
    VKMOE_TRY(squared_error, engine.kernel(kernels().squared_error, {}));
    VKMOE_TRY(count, engine.kernel(kernels().count_tokens, {}));
    batch.squared_error_ = squared_error;
    batch.count_ = count;
    VKMOE_TRY(counts, engine.device().allocate(uint64_t{layer.description().experts} * 4, Memory::device,
                                               "tokens of each expert"));
    batch.counts_ = std::move(counts);
    return batch;
}

// In pages only experts with tokens are there, so the others' gradients must have been zeroed.
Result<const BackwardPass*> LayerBatch::makeBackward(bool carry) const {
    return layer_->backward(*engine_, {.carry = carry, .fresh = layer_->paged() == nullptr});
}

// ---- memory ---------------------------------------------------------------------------------------------------------

uint64_t LayerBatch::bytesFor(uint32_t capacity) const {
    const Description& d = layer_->description();
    return Workspace::bytesFor(d, d.top_k, capacity, {true}) + BackwardWorkspace::bytesFor(d, capacity) +
           uint64_t{capacity} * (16 * uint64_t{d.model_dim} + 4 * uint64_t{d.experts} + 64);
}

// Memory for a batch, or for as much of it as fits.
Result<void> LayerBatch::ensure(uint64_t tokens) {
    uint64_t wanted = max_chunk_ == 0 ? tokens : std::min<uint64_t>(tokens, max_chunk_);
    if (workspace_ && asked_ >= wanted) return {};
    asked_ = wanted;
    workspace_.reset();
    backward_.reset();
    for (Buffer* buffer : {&upload_, &download_, &losses_}) buffer->reset();
    const Description& d = layer_->description();
    Ledger& ledger = engine_->device().ledger();
    uint64_t left = ledger.left(), fit = 0;
    uint64_t most = std::min<uint64_t>({wanted, BackwardPass::kMostTokens, Workspace::largestCapacity(d, d.top_k)});
    for (uint64_t step = uint64_t{1} << 31; step != 0; step /= 2)
        if (fit + step <= most && bytesFor(uint32_t(fit + step)) <= left) fit += step;
    if (fit == 0)
        return Error{ErrorCode::out_of_memory,
                     fmt::format("activations of one token need {} bytes; {} of the budget of {} bytes are left",
                                 bytesFor(1), left, ledger.budget())};
    return allocate(uint32_t(fit));
}

Result<void> LayerBatch::allocate(uint32_t capacity) {
    const Description& d = layer_->description();
    Device& device = engine_->device();
    VKMOE_TRY(forward, Workspace::create(device, d, d.top_k, capacity, {true}));
    VKMOE_TRY(backward, BackwardWorkspace::create(device, d, capacity));
    uint64_t values = uint64_t{capacity} * d.model_dim * 4;
    at_.upstream = at_.losses = values;
    at_.logits = at_.losses + uint64_t{capacity} * 4;
    at_.offsets = at_.logits + uint64_t{capacity} * d.experts * 4;
    at_.loss_status = at_.offsets + (uint64_t{d.experts} + 1) * 4;
    at_.forward = at_.loss_status + 8;
    at_.backward = at_.forward + 8 * Workspace::kStatusRows;
    uint64_t results = at_.backward + 8 * BackwardWorkspace::kStatusRows;
    VKMOE_TRY(up, device.allocate(2 * values, Memory::upload, "a batch of samples"));
    VKMOE_TRY(down, device.allocate(results, Memory::download, "results of a batch"));
    VKMOE_TRY(losses, device.allocate(uint64_t{capacity} * 4 + 8 + values, Memory::device, "losses and targets"));
    workspace_ = std::move(forward);
    backward_ = std::move(backward);
    upload_ = std::move(up);
    download_ = std::move(down);
    losses_ = std::move(losses);
    return {};
}

// Accumulators as large as the gradients, and what a shared gate's gradient is made of at the end.
Result<void> LayerBatch::ensureCarry(uint64_t tokens) {
    const Description& d = layer_->description();
    bool gated = d.shared == Shared::sigmoid_gated;
    if (gated && tokens > kMostGateTokens)
        return Error{ErrorCode::unsupported, fmt::format("a batch of {} samples of a layer with a gated shared expert "
                                                         "does not fit at once, and {} are the most in chunks",
                                                         tokens, kMostGateTokens)};
    if (carry_ && carry_tokens_ >= tokens) return {};
    carry_.reset();
    Device& device = engine_->device();
    VKMOE_TRY(pass, makeBackward(true));
    chunked_ = pass;
    Carry carry;
    for (auto* buffers : {&carry.totals, &carry.partials})
        for (size_t slab = 0; slab < set_->slabs().size(); ++slab) {
            VKMOE_TRY(buffer, device.allocate(set_->grads(slab).size(), Memory::device,
                                              "gradients on their way from chunk to chunk"));
            buffers->push_back(std::move(buffer));
        }
    VKMOE_TRY(total_table, layer_->pageTable(*engine_, carry.totals));
    VKMOE_TRY(partial_table, layer_->pageTable(*engine_, carry.partials));
    VKMOE_TRY(carried, device.allocate((uint64_t{d.experts} + 1) * 4, Memory::device, "slots of earlier chunks"));
    if (const PagedTraining::Layer* paged = layer_->paged()) {
        VKMOE_CHECK(paged->setOthers(PagedTraining::totals, total_table));
        VKMOE_CHECK(paged->setOthers(PagedTraining::partials, partial_table));
    }
    carry.total_table = std::move(total_table);
    carry.partial_table = std::move(partial_table);
    carry.carried = std::move(carried);
    if (gated) {
        VKMOE_TRY(x, device.allocate(tokens * d.model_dim * 4, Memory::device, "inputs of a batch"));
        VKMOE_TRY(logits, device.allocate(tokens * 4, Memory::device, "gradients of the shared gate"));
        carry.x = std::move(x);
        carry.shared_logits = std::move(logits);
    }
    carry_ = std::move(carry);
    carry_tokens_ = tokens;
    return {};
}

// ---- recording ------------------------------------------------------------------------------------------------------

void LayerBatch::upload(const BatchWork& work, const Chunk& chunk) {
    size_t D = layer_->description().model_dim, bytes = chunk.tokens * D * 4;
    std::memcpy(upload_.mapped().data(), work.x.data() + chunk.first * D, bytes);
    std::memcpy(upload_.mapped().data() + at_.upstream, work.upstream.data() + chunk.first * D, bytes);
}

ForwardPass::Batch LayerBatch::forwardBatch(const BatchWork& work, const Chunk& chunk) const {
    return {.first = work.first_token + chunk.first, .tokens = chunk.tokens, .training = work.noise};
}

void LayerBatch::recordInput(Commands& commands, const Chunk& chunk) const {
    uint64_t bytes = uint64_t{chunk.tokens} * layer_->description().model_dim * 4;
    commands.copy(upload_, 0, workspace_->memory, workspace_->raw, bytes);
}

void LayerBatch::recordForward(Commands& commands, const BatchWork& work, const Chunk& chunk) const {
    recordInput(commands, chunk);
    layer_->forward().recordOnDevice(commands, *workspace_, forwardBatch(work, chunk));
}

// The gradient of the outputs: as it came, or that of the squared error. Targets follow the losses and their status.
void LayerBatch::recordUpstream(Commands& commands, const BatchWork& work, const Chunk& chunk) const {
    const uint32_t D = layer_->description().model_dim;
    uint64_t status = uint64_t{workspace_->capacity} * 4, targets = status + 8, bytes = uint64_t{chunk.tokens} * D * 4;
    commands.fill(losses_, 0, targets, 0);
    if (!work.squared_error) {
        commands.copy(upload_, at_.upstream, backward_->memory, backward_->grad_out, bytes);
        return commands.barrier();
    }
    commands.copy(upload_, at_.upstream, losses_, targets, bytes);
    commands.barrier();
    SquaredError p{workspace_->memory.at<F32>(workspace_->out),
                   losses_.at<F32>(targets),
                   backward_->memory.at<F32>(backward_->grad_out),
                   losses_.at<F32>(),
                   losses_.at<U32>(status),
                   chunk.tokens,
                   D};
    commands.dispatch(*squared_error_, p, uint64_t{chunk.tokens} * kWorkgroup);
    commands.barrier();
}

void LayerBatch::recordCounts(Commands& commands, uint64_t counts) const {
    CountTokens p{};
    p.offsets = workspace_->memory.at<U32>(workspace_->offsets);
    p.counts = pointerTo<U32>(counts);
    p.experts = layer_->description().experts;
    commands.dispatch(*count_, p, p.experts);
}

// Whom the batch's balance loss counts, and who ever had tokens.
void LayerBatch::recordAllCounts(Commands& commands, const Chunk& chunk) const {
    if (chunk.whole) {
        commands.fill(counts_, 0, counts_.size(), 0);
        commands.barrier();
        recordCounts(commands, counts_.address());
    }
    recordCounts(commands, layer_->touched().address());
    commands.barrier();
}

BackwardPass::Batch LayerBatch::backwardBatch(const BatchWork& work, const Chunk& chunk, uint64_t tokens) const {
    BackwardPass::Batch batch{.tokens = chunk.tokens, .assignments = uint32_t(tokens * layer_->description().top_k)};
    batch.balance_scale = work.balance_scale;
    batch.z_scale = work.z_scale;
    batch.counts = counts_.address();
    batch.input = !work.squared_error;
    if (chunk.whole) return batch;
    const PagedTraining::Layer* paged = layer_->paged();
    batch.totals = paged ? paged->table(PagedTraining::totals).address() : carry_->total_table.address();
    batch.partials = paged ? paged->table(PagedTraining::partials).address() : carry_->partial_table.address();
    batch.carried = carry_->carried.address();
    batch.last = chunk.is_last;
    return batch;
}

void LayerBatch::recordBackward(Commands& commands, const BatchWork& work, const Chunk& chunk, uint64_t tokens) const {
    recordAllCounts(commands, chunk);
    auto batch = backwardBatch(work, chunk, tokens);
    backwardPass(chunk).record(commands, *workspace_, *backward_, gradients_, batch);
    if (!chunk.whole) carryOn(commands, chunk, tokens);
}

// What the next chunk must know; after the last one, the shared gate's gradient over the whole batch.
void LayerBatch::carryOn(Commands& commands, const Chunk& chunk, uint64_t tokens) const {
    const Description& d = layer_->description();
    recordCounts(commands, carry_->carried.address());
    commands.fill(carry_->carried, uint64_t{d.experts} * 4, 4, chunk.first + chunk.tokens);
    if (d.shared == Shared::sigmoid_gated) {
        uint64_t row = uint64_t{d.model_dim} * 4;
        commands.copy(workspace_->memory, workspace_->x, carry_->x, chunk.first * row, chunk.tokens * row);
        commands.copy(backward_->memory, backward_->grad_shared_logits, carry_->shared_logits,
                      uint64_t{chunk.first} * 4, uint64_t{chunk.tokens} * 4);
    }
    commands.barrier();
    if (!chunk.is_last || d.shared != Shared::sigmoid_gated) return;
    chunked_->recordSharedGate(commands, *backward_, gradients_, carry_->shared_logits.at<F32>(), carry_->x.at<F32>(),
                               uint32_t(tokens));
    commands.barrier();
}

void LayerBatch::recordDownloads(Commands& commands, const BatchWork& work, const Chunk& chunk) const {
    const Workspace& w = *workspace_;
    const Description& d = layer_->description();
    uint64_t tokens = chunk.tokens, experts = d.experts;
    commands.copy(losses_, 0, download_, at_.losses, tokens * 4);
    commands.copy(losses_, uint64_t{w.capacity} * 4, download_, at_.loss_status, 8);
    commands.copy(w.memory, w.logits, download_, at_.logits, tokens * experts * 4);
    commands.copy(w.memory, w.offsets, download_, at_.offsets, (experts + 1) * 4);
    if (!work.squared_error)
        commands.copy(backward_->memory, backward_->grad_in, download_, 0, tokens * d.model_dim * 4);
    commands.copy(w.memory, w.status, download_, at_.forward, 8 * Workspace::kStatusRows);
    commands.copy(backward_->memory, backward_->status, download_, at_.backward, 8 * BackwardWorkspace::kStatusRows);
}

}  // namespace v1
}  // namespace vkmoe
