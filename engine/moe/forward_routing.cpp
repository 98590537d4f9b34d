// ForwardPass up to the experts' lists of tokens: input, logits, choice, capacity, bins, and the guess of another
// layer's.
#include <algorithm>

#include "engine/ceil_div.h"
#include "engine/moe/forward_pass.h"
#include "engine/moe/token_lanes.h"
#include "shaders/exact_math.h"

namespace vkmoe {
inline namespace v1 {
namespace {

constexpr uint32_t kNoiseOfLayer = 0x9e3779b9;  // apart the seeds of neighbouring layers; layer 0 has the description's

}  // namespace

void ForwardPass::recordHead(Commands& commands, const Workspace& w, const Batch& batch) const {
    conditionInput(commands, w, batch.tokens);
    logits(commands, w, batch);
    route(commands, w, batch);
    if (batch.forced) forceRoutes(commands, w, batch.tokens, *batch.forced);
    bin(commands, w, batch.tokens);
}

void ForwardPass::recordLogits(Commands& commands, const Workspace& w, const Batch& batch, const HostArea& host) const {
    conditionInput(commands, w, batch.tokens);
    logits(commands, w, batch);
    commands.copy(w.memory, w.logits, *host.download, host.download_at + w.back.logits,
                  uint64_t{batch.tokens} * weights_->description.experts * 4);
    commands.copy(w.memory, w.status, *host.download, host.download_at + w.back.status, 8 * Workspace::kStatusRows);
}

U32 ForwardPass::status(const Workspace& w, size_t stage) const { return w.memory.at<U32>(w.status + stage * 8); }

// The routed experts' operands serve the shared one too where both are rounded alike.
uint64_t ForwardPass::sharedOperands(const Workspace& w) const {
    if (shared_.operand_bits == 24) return w.x;
    return shared_.operand_bits == routed_.operand_bits ? w.x_rounded : w.x_shared;
}

void ForwardPass::conditionInput(Commands& commands, const Workspace& w, uint32_t tokens) const {
    uint32_t count = tokens * weights_->description.model_dim;
    commands.fill(w.memory, w.status, 8 * Workspace::kStatusRows, 0);
    commands.fill(w.memory, w.counts, w.counts_bytes, 0);
    commands.barrier();
    ApplyRule p{w.memory.at<U32>(w.raw), w.memory.at<F32>(w.x), status(w, kInput), count, 0};
    commands.dispatch(*apply_, p, count);
    p.status = status(w, Workspace::kStatusRows - 1);  // the same values are counted once
    p.target = w.memory.at<F32>(w.x_rounded);
    if (routed_.operand_bits < 24) commands.dispatch(*apply_rounded_, p, count);
    p.target = w.memory.at<F32>(w.x_shared);
    if (sharedOperands(w) == w.x_shared) commands.dispatch(*apply_shared_, p, count);
    commands.barrier();
}

void ForwardPass::dispatchLogits(Commands& commands, const Workspace& w, uint32_t tokens, U32 status) const {
    const Description& d = weights_->description;
    RouterLogits p{w.memory.at<F32>(w.x),
                   weights_->router.at<U32>(),
                   weights_->router.at<F32>(weights_->router_bias),
                   w.memory.at<F32>(w.logits),
                   status,
                   tokens,
                   d.experts,
                   d.model_dim,
                   0};
    commands.dispatch(*logits_, p, uint64_t{tokens} * ceilDiv(d.experts, kPanel) * kPanel);
}

// The shared expert needs no routes: it runs beside the router.
void ForwardPass::logits(Commands& commands, const Workspace& w, const Batch& batch) const {
    const Description& d = weights_->description;
    dispatchLogits(commands, w, batch.tokens, status(w, kLogits));
    if (d.shared != Shared::none) sharedUp(commands, w, batch.tokens);
    if (d.shared == Shared::sigmoid_gated) sharedGate(commands, w, batch.tokens);
    commands.barrier();
    if (!batch.training || d.noise_std == 0) return;
    AddNoise noise{w.memory.at<F32>(w.logits),
                   status(w, kLogits),
                   batch.tokens,
                   d.experts,
                   uint32_t(batch.first),
                   d.noise_seed + batch.layer * kNoiseOfLayer,
                   state_rule(d.noise_std),
                   0};
    commands.dispatch(*noise_, noise, uint64_t{batch.tokens} * d.experts);
    commands.barrier();
}

void ForwardPass::sharedGate(Commands& commands, const Workspace& w, uint32_t tokens) const {
    SharedGate p{w.memory.at<F32>(w.x),
                 weights_->router.at<F32>(weights_->shared_router),
                 w.memory.at<F32>(w.shared_gates),
                 status(w, kSharedGate),
                 tokens,
                 weights_->description.model_dim};
    commands.dispatch(*shared_gate_, p, uint64_t{tokens} * kWorkgroup);
}

void ForwardPass::route(Commands& commands, const Workspace& w, const Batch& batch) const {
    const Description& d = weights_->description;
    commands.dispatch(*topk_, topkParams(w, batch.tokens), uint64_t{batch.tokens} * lanes_);
    if (d.shared != Shared::none) sharedDown(commands, w, batch.tokens);
    commands.barrier();
    if (d.dispatch == Dispatch::capacity && !batch.forced) assignCapacity(commands, w, batch);
}

RouteTopk ForwardPass::topkParams(const Workspace& w, uint32_t tokens) const {
    const Description& d = weights_->description;
    return {w.memory.at<F32>(w.logits),
            weights_->router.at<F32>(weights_->selection_bias),
            w.memory.at<U32>(w.selected),
            w.memory.at<F32>(w.gates),
            w.memory.at<F32>(w.probabilities),
            w.memory.at<U32>(w.keys),
            w.memory.at<F32>(w.scores),
            status(w, kGates),
            tokens,
            d.experts,
            d.top_k,
            d.groups,
            d.groups_kept,
            state_rule(d.renormalize_epsilon),
            d.routed_scale,
            0};
}

// Tokens take their turns; so many a dispatch that no invocation loops too often.
void ForwardPass::assignCapacity(Commands& commands, const Workspace& w, const Batch& batch) const {
    const Description& d = weights_->description;
    AssignCapacity p{w.memory.at<U32>(w.keys),
                     w.memory.at<F32>(w.scores),
                     batch.taken->at<U32>(),
                     w.memory.at<U32>(w.selected),
                     w.memory.at<F32>(w.gates),
                     status(w, kGates),
                     0,
                     0,
                     d.experts,
                     d.top_k,
                     batch.capacity,
                     state_rule(d.renormalize_epsilon),
                     d.routed_scale,
                     0};
    uint32_t choices = std::min(d.top_k, d.experts), share = ceilDiv(d.experts, kWorkgroup);
    uint32_t trips = 1 + share + choices * (1 + share + std::min(kWorkgroup, d.experts)) + 4 * d.top_k;
    for (uint32_t step = std::max(30000 / trips, 1u); p.first_token < batch.tokens; p.first_token += step) {
        p.tokens = std::min(step, batch.tokens - p.first_token);
        commands.dispatch(*capacity_, p, kWorkgroup);
        commands.barrier();
    }
}

void ForwardPass::forceRoutes(Commands& commands, const Workspace& w, uint32_t tokens, const HostArea& host) const {
    uint64_t bytes = uint64_t{tokens} * w.width * 4;
    commands.copy(*host.upload, host.upload_at + w.forced_selected, w.memory, w.selected, bytes);
    commands.copy(*host.upload, host.upload_at + w.forced_gates, w.memory, w.gates, bytes);
    commands.barrier();
}

void ForwardPass::bin(Commands& commands, const Workspace& w, uint32_t tokens) const {
    const Description& d = weights_->description;
    uint32_t assignments = tokens * w.width;
    BinTokens p{w.memory.at<U32>(w.selected),
                w.memory.at<U32>(w.counts),
                w.memory.at<U32>(w.offsets),
                w.memory.at<U32>(w.token_of),
                w.memory.at<U32>(w.slot_of),
                w.memory.at<U32>(w.tiles),
                w.memory.at<U32>(w.tile_count),
                w.memory.at<U32>(w.up_groups),
                w.memory.at<U32>(w.down_groups),
                assignments,
                d.experts,
                w.width,
                ceilDiv(assignments, kBinChunk),
                ceilDiv(d.hidden_dim, routed_.forms.tileOutputs()),
                ceilDiv(d.model_dim, routed_.forms.tileOutputs())};
    commands.dispatch(*count_, p, assignments);
    commands.barrier();
    commands.dispatch(*offsets_, p, kWorkgroup);
    commands.barrier();
    commands.dispatch(*tokens_, p, assignments);
    commands.barrier();
}

Result<void> ForwardPass::prepareGuess(Engine& engine) {
    if (guess_) return {};
    Constants constants = routing_;
    constants.probabilities = constants.capacity = 0;
    VKMOE_TRY(guess, engine.kernel(kernels().route_topk, constants));
    guess_ = guess;
    return {};
}

bool ForwardPass::guessFits(const Description& other, uint32_t width) const {
    const Description& d = weights_->description;
    return d.experts <= other.experts && d.top_k <= std::max(width, other.top_k) &&
           d.top_k <= width * std::min(other.hidden_dim, other.model_dim);
}

// The other layer's logits have served, and its hidden rows are not there yet: both give their place.
void ForwardPass::recordGuess(Commands& commands, const Workspace& w, uint32_t tokens, const Buffer& host,
                              uint64_t at) const {
    const Description& d = weights_->description;
    U32 unread = status(w, Workspace::kStatusRows - 1);
    dispatchLogits(commands, w, tokens, unread);
    commands.barrier();
    RouteTopk topk = topkParams(w, tokens);
    topk.selected = w.memory.at<U32>(w.hidden);
    topk.gates = w.memory.at<F32>(w.y);
    topk.status = unread;
    commands.dispatch(*guess_, topk, uint64_t{tokens} * lanes_);
    commands.barrier();
    commands.copy(w.memory, w.hidden, host, at, uint64_t{tokens} * d.top_k * 4);
    commands.barrier();
}

}  // namespace v1
}  // namespace vkmoe
