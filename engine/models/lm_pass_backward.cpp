// LmPass backward: from the gradients of the logits to those of all parameters, and the errors of both directions.
#include <fmt/format.h>

#include "engine/models/lm_pass.h"
#include "engine/train/gradient_forms.h"
#include "host/views.h"

namespace vkmoe {
inline namespace v1 {
namespace {

// Gradients [T, D] of a layer's output, and of its mixture's input.
F32 gradOut(const LmPass::Gradients& g) {
    return g.carry ? g.carry->grad_out.at<F32>() : g.workspace->memory.at<F32>(g.workspace->grad_out);
}

F32 gradIn(const LmPass::Gradients& g) {
    return g.carry ? g.carry->grad_in.at<F32>() : g.workspace->memory.at<F32>(g.workspace->grad_in);
}

F32 rowsOf(F32 rows, const LmChunk& chunk, uint32_t width) { return {rows.at + uint64_t{chunk.first} * width}; }

}  // namespace

// ---- head -----------------------------------------------------------------------------------------------------------

void LmPass::losses(Commands& commands, const LmActivations& a, uint32_t tokens, const Gradients* gradients) const {
    if (gradients && gradients->carry) gradients->carry->begin(commands);
    for (const LmChunk& chunk : a.cut(tokens)) {
        logits(commands, a, chunk);
        loss(commands, a, chunk, gradients != nullptr);
        if (gradients) headBackward(commands, a, *gradients, chunk);
    }
}

// The tied embedding is the head's matrix: its gradient comes from both ends.
void LmPass::headBackward(Commands& commands, const LmActivations& a, const Gradients& g, const LmChunk& chunk) const {
    const LmConfig& c = trunk_->config;
    U32 status = statusAt(a, a.head_status, kHeadBackward);
    RouterLogitsBackward back{a.memory.at<F32>(a.logits),
                              trunk_->memory.at<U32>(),
                              rowsOf(gradOut(g), chunk, c.model_dim),
                              status,
                              chunk.tokens,
                              c.vocab_size,
                              c.model_dim,
                              0};
    commands.dispatch(*head_backward_, back, denseThreads(*head_backward_, chunk.tokens, c.model_dim));
    ExpertWeightGrad grad{};
    grad.grad_out = a.memory.at<F32>(a.logits);
    grad.x = a.memory.at<F32>(a.rowsAt(a.head_x, chunk, c.model_dim));
    grad.pages = g.trunk_table->at<Pages>();
    grad.status = status;
    grad.rows = c.vocab_size;
    grad.cols = c.model_dim;
    grad.experts = 1;
    grad.count = chunk.tokens;
    grad.last = chunk.is_last;
    if (g.carry) {
        grad.totals = g.carry->headTotals();
        grad.partials = g.carry->headPartials();
        grad.carried = g.carry->carried.at<U32>();
    }
    const Kernel& head = g.carry ? *head_carry_ : *head_weight_;
    commands.dispatch(head, grad, denseThreads(head, c.vocab_size, c.model_dim));
    commands.barrier();
    if (!g.carry) return;
    commands.fill(g.carry->carried, 4, 4, chunk.first + chunk.tokens);  // word `experts`
    commands.barrier();
}

// ---- layers ---------------------------------------------------------------------------------------------------------

Result<void> LmPass::backward(Commands& commands, const LmActivations& a, const Mixture& again,
                              const MixtureBackward& mixture, const Gradients& g, const LmInputs& inputs) const {
    uint32_t tokens = inputs.tokens();
    for (uint32_t l = trunk_->config.layers; l-- > 0;) {
        // The last layer's are still there, if there is one chunk.
        bool lost = again && (g.carry || l + 1 < trunk_->config.layers);
        if (lost) beforeMixtures(commands, a, l, tokens);
        VKMOE_CHECK(mixturesBackward(commands, a, lost ? again : nullptr, mixture, g, l, tokens));
        trunkBackward(commands, a, g, l, tokens);
    }
    embedBackward(commands, a, g, inputs);
    return {};
}

Result<void> LmPass::mixturesBackward(Commands& commands, const LmActivations& a, const Mixture& again,
                                      const MixtureBackward& mixture, const Gradients& g, uint32_t l,
                                      uint32_t tokens) const {
    if (g.carry) g.carry->begin(commands);
    for (const LmChunk& chunk : a.cut(tokens)) {
        if (again) {
            beforeMixture(commands, a, l, chunk);
            VKMOE_CHECK(again(commands, l, chunk));
            commands.barrier();
        }
        VKMOE_CHECK(mixtureBackward(commands, a, mixture, g, l, chunk, tokens));
    }
    return {};
}

// In chunks the mixture has rows of its own.
Result<void> LmPass::mixtureBackward(Commands& commands, const LmActivations& a, const MixtureBackward& mixture,
                                     const Gradients& g, uint32_t l, const LmChunk& chunk, uint32_t tokens) const {
    const LmConfig& c = trunk_->config;
    const Workspace& w = a.mixture(l, chunk);
    const BackwardWorkspace& b = *g.workspace;
    const uint64_t at = a.rowsAt(0, chunk, c.model_dim), bytes = uint64_t{chunk.tokens} * c.model_dim * 4;
    BackwardPass::Batch batch{.tokens = chunk.tokens, .assignments = tokens * c.top_k};
    batch.balance_scale = g.balance_scale;
    batch.z_scale = g.z_scale;
    batch.counts = g.counts + uint64_t{l} * c.experts * 4;
    if (g.carry) {
        commands.copy(g.carry->grad_out, at, b.memory, b.grad_out, bytes);
        commands.barrier();
    }
    VKMOE_CHECK(mixture({commands, w, b, g.mixtures[l], batch}, l, chunk));
    commands.copy(b.memory, b.status, a.download, a.backwardStatusAt(l, chunk), 8 * BackwardWorkspace::kStatusRows);
    if (!g.carry) return {};
    commands.copy(b.memory, b.grad_in, g.carry->grad_in, at, bytes);
    count(commands, w.memory.at<U32>(w.offsets), g.carry->carried.address());
    commands.fill(g.carry->carried, uint64_t{c.experts} * 4, 4, chunk.first + chunk.tokens);
    commands.barrier();
    return {};
}

void LmPass::trunkBackward(Commands& commands, const LmActivations& a, const Gradients& g, uint32_t l,
                           uint32_t tokens) const {
    const LmConfig& c = trunk_->config;
    const LmActivations::Layer& at = a.layers[l];
    const Trunk::Layer& weights = trunk_->layers[l];
    U32 status = statusAt(a, at.status, kBackward);
    F32 grad_out = gradOut(g), grad_u = pointerTo<F32>(g.grad_u), grad_n = pointerTo<F32>(g.grad_n);
    normBackward(commands, a, at.u, at.moe_roots, weights.norm_moe, g.trunk + weights.norm_moe, gradIn(g), grad_out,
                 grad_u, status, tokens);
    CausalConvBackward conv{grad_u,
                            trunk_->memory.at<F32>(weights.conv),
                            a.memory.at<U32>(a.remaining),
                            grad_n,
                            status,
                            tokens,
                            c.model_dim,
                            c.conv_kernel,
                            0};
    CausalConvWeightGrad taps{grad_u,
                              a.memory.at<F32>(at.n),
                              a.memory.at<U32>(a.positions),
                              pointerTo<F32>(g.trunk + weights.conv),
                              status,
                              tokens,
                              c.model_dim,
                              c.conv_kernel,
                              0};
    commands.dispatch(*conv_backward_, conv, uint64_t{tokens} * c.model_dim);
    commands.dispatch(*conv_weight_, taps, uint64_t{c.model_dim} * c.conv_kernel);
    commands.barrier();
    normBackward(commands, a, at.x, at.conv_roots, weights.norm_conv, g.trunk + weights.norm_conv, grad_n, grad_u,
                 grad_out, status, tokens);
}

// x and roots are a norm's input and its roots, gain and grad_gain byte offsets into the trunk.
void LmPass::normBackward(Commands& commands, const LmActivations& a, uint64_t x, uint64_t roots, uint64_t gain,
                          uint64_t grad_gain, F32 grad_y, F32 residual, F32 grad_x, U32 status, uint32_t tokens) const {
    uint32_t D = trunk_->config.model_dim;
    RmsNormBackward norm{a.memory.at<F32>(x),
                         trunk_->memory.at<F32>(gain),
                         a.memory.at<F32>(roots),
                         grad_y,
                         residual,
                         grad_x,
                         status,
                         tokens,
                         D};
    RmsNormWeightGrad weight{
        a.memory.at<F32>(x), a.memory.at<F32>(roots), grad_y, pointerTo<F32>(grad_gain), status, tokens, D};
    commands.dispatch(*norm_backward_, norm, uint64_t{tokens} * kWorkgroup);
    commands.dispatch(*norm_weight_, weight, D);
    commands.barrier();
}

void LmPass::embedBackward(Commands& commands, const LmActivations& a, const Gradients& g,
                           const LmInputs& inputs) const {
    EmbedBackward embed{gradOut(g),
                        a.memory.at<U32>(a.distinct),
                        a.memory.at<U32>(a.distinct_offsets),
                        a.memory.at<U32>(a.distinct_rows),
                        pointerTo<U32>(g.trunk),
                        statusAt(a, a.head_status, kHeadBackward),
                        uint32_t(inputs.distinct.size()),
                        trunk_->config.model_dim};
    commands.dispatch(*embed_backward_, embed, uint64_t{embed.distinct} * trunk_->config.model_dim);
    commands.barrier();
}

// ---- errors ---------------------------------------------------------------------------------------------------------

namespace {

// What a status row speaks of, and how many values a token has there; 0: the values belong to no token.
struct StatusRow {
    const char* what;
    uint32_t width;
};

// Status words of a layer of the trunk, the head's after the last one's.
std::span<const uint32_t> trunkStatus(const LmActivations& a, uint32_t layer, const LmChunk& chunk) {
    uint64_t rows = 8 * LmActivations::kStatusRows * uint64_t{a.chunks()};
    return view<uint32_t>(a.download, a.statusAt(a.back.status + layer * rows, chunk), 2 * LmActivations::kStatusRows);
}

// The first row that is not clean, as a sentence.
Result<void> checkRows(std::span<const uint32_t> words, std::span<const StatusRow> stages, const std::string& where,
                       uint32_t first_token = 0) {
    for (size_t i = 0; i < stages.size(); ++i) {
        if (words[2 * i] == 0) continue;
        uint32_t index = ~words[2 * i + 1], width = stages[i].width;
        std::string first =
            width == 0 ? ""
                       : fmt::format(", the first at token {}, element {}", first_token + index / width, index % width);
        return Error{ErrorCode::bad_input, fmt::format("{}{}: {} values are not finite or not below 2^63 in size{}",
                                                       where, stages[i].what, words[2 * i], first)};
    }
    return {};
}

Result<SlotTable> slotsOf(const LmActivations& a, const LmConfig& c, uint32_t layer, const LmChunk& chunk) {
    auto offsets = view<uint32_t>(a.download, a.offsetsAt(layer, chunk), size_t{c.experts} + 1);
    auto tokens = view<uint32_t>(a.download, a.tokensAt(layer, chunk), size_t{chunk.tokens} * c.top_k);
    return SlotTable{{offsets.begin(), offsets.end()}, {tokens.begin(), tokens.end()}};
}

Error inLayer(size_t layer, Error error) {
    error.detail = fmt::format("layers.{}.moe: {}", layer, error.detail);
    return error;
}

}  // namespace

Result<void> LmPass::check(const LmActivations& a, uint32_t tokens, std::span<const ForwardPass* const> mixtures,
                           uint32_t first_token, std::span<const std::array<uint32_t, 4>> elsewhere) const {
    const LmConfig& c = trunk_->config;
    const StatusRow layer[] = {{"conv norm", c.model_dim},
                               {"convolution", c.model_dim},
                               {"moe norm", c.model_dim},
                               {"the layer's sum", c.model_dim}};
    const StatusRow head[] = {
        {"the last layer's output", c.model_dim}, {"the logits", c.vocab_size}, {"the losses", c.vocab_size}};
    const auto chunks = a.cut(tokens);
    for (uint32_t l = 0; l < c.layers; ++l)
        for (const LmChunk& chunk : chunks) {
            const uint32_t first = first_token + chunk.first;
            VKMOE_CHECK(checkRows(trunkStatus(a, l, chunk), layer, fmt::format("layers.{}: ", l), first));
            auto counted = view<uint32_t>(a.download, a.mixtureStatusAt(l, chunk), 2 * Workspace::kStatusRows);
            std::vector<uint32_t> words(counted.begin(), counted.end());
            if (!elsewhere.empty()) ForwardPass::mergeStatus(words, elsewhere[l]);
            auto inside = mixtures[l]->check(words.data(), c.top_k, first, [&] { return slotsOf(a, c, l, chunk); });
            if (!inside) return inLayer(l, std::move(inside).error());
        }
    for (const LmChunk& chunk : chunks)
        VKMOE_CHECK(checkRows(trunkStatus(a, c.layers, chunk), head, "", first_token + chunk.first));
    return {};
}

// Gradients of the trunk are the first chunk's.
Result<void> LmPass::checkBackward(const LmActivations& a, uint32_t tokens,
                                   std::span<const BackwardPass* const> passes) const {
    const StatusRow layer[] = {{"gradients of norms and convolution", 0}};
    const StatusRow head[] = {{"gradients of the head and the embedding", 0}};
    const uint32_t layers = trunk_->config.layers;
    for (uint32_t l = 0; l < layers; ++l) {
        VKMOE_CHECK(checkRows(trunkStatus(a, l, {}).subspan(2 * kBackward), layer, fmt::format("layers.{}: ", l)));
        for (const LmChunk& chunk : a.cut(tokens)) {
            auto words = view<uint32_t>(a.download, a.backwardStatusAt(l, chunk), 2 * BackwardWorkspace::kStatusRows);
            auto inside = passes[l]->check(words.data());
            if (inside) continue;
            Error error = inLayer(l, std::move(inside).error());
            if (a.chunks() > 1) error.detail += fmt::format(" (in the chunk from token {} on)", chunk.first);
            return error;
        }
    }
    return checkRows(trunkStatus(a, layers, {}).subspan(2 * kHeadBackward), head, "");
}

}  // namespace v1
}  // namespace vkmoe
