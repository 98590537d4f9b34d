#include "engine/models/lm_pass.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <numeric>

#include "engine/train/gradient_grid.h"
#include "host/views.h"
#include "shaders/exact_math.h"

namespace vkmoe {
inline namespace v1 {
namespace {

constexpr uint32_t kEpsilonBits = 0x3727c5ac;  // 1e-5

// Status rows of a layer, in the order in which values come about; of the head.
enum LayerStatus : size_t { kConvNorm, kConv, kMoeNorm, kSum, kBackward };
enum HeadStatus : size_t { kHead, kLogits, kLoss, kHeadBackward };

U32 statusAt(const LmActivations& a, uint64_t rows, size_t row) { return a.memory.at<U32>(rows + row * 8); }

}  // namespace

// ---- inputs ---------------------------------------------------------------------------------------------------------

void LmInputs::add(std::span<const uint32_t> sequence, uint32_t position) {
    for (size_t i = 0; i < sequence.size(); ++i) {
        bool last = i + 1 == sequence.size();
        ids.push_back(sequence[i]);
        positions.push_back(position + uint32_t(i));
        remaining.push_back(uint32_t(sequence.size() - 1 - i));
        targets.push_back(last ? kAbsent : sequence[i + 1]);
        weights.push_back(last ? 0.0f : float(1.0 / double(sequence.size() - 1)));
    }
}

void LmInputs::sortIds() {
    distinct_rows.resize(ids.size());
    std::iota(distinct_rows.begin(), distinct_rows.end(), 0u);
    std::stable_sort(distinct_rows.begin(), distinct_rows.end(),
                     [&](uint32_t a, uint32_t b) { return ids[a] < ids[b]; });
    distinct.clear();
    distinct_offsets.clear();
    for (uint32_t i = 0; i < distinct_rows.size(); ++i) {
        uint32_t id = ids[distinct_rows[i]];
        if (!distinct.empty() && distinct.back() == id) continue;
        distinct.push_back(id);
        distinct_offsets.push_back(i);
    }
    distinct_offsets.push_back(uint32_t(ids.size()));
}

// ---- kernels --------------------------------------------------------------------------------------------------------

Result<LmPass> LmPass::create(Engine& engine, const Trunk& trunk, bool training) {
    LmPass pass(trunk);
    const Kernels& k = kernels();
    struct Wanted {
        const Kernel*& kernel;
        const KernelCode& code;
        Constants constants;
        bool training;
    };
    const Wanted wanted[] = {
        {pass.embed_, k.embed_tokens, {}, false},
        {pass.norm_, k.rms_norm, {}, false},
        {pass.conv_, k.causal_conv, {}, false},
        {pass.add_, k.add_rows, {}, false},
        {pass.apply_, k.apply_rule, {.operand_bits = 24}, false},
        {pass.head_, k.router_logits, {}, false},
        {pass.loss_, k.cross_entropy, {}, true},
        {pass.loss_gradients_, k.cross_entropy, {.gradients = 1}, true},
        {pass.embed_backward_, k.embed_backward, {}, true},
        {pass.norm_backward_, k.rms_norm_backward, {}, true},
        {pass.norm_weight_, k.rms_norm_weight_grad, {}, true},
        {pass.conv_backward_, k.causal_conv_backward, {}, true},
        {pass.conv_weight_, k.causal_conv_weight_grad, {}, true},
        {pass.head_backward_, k.router_logits_backward, {}, true},
        {pass.head_weight_, k.expert_weight_grad, {.operand_bits = 24, .dense = 1}, true},
        {pass.count_, k.count_tokens, {}, true},
    };
    for (const Wanted& w : wanted) {
        if (w.training && !training) continue;
        VKMOE_TRY(kernel, engine.kernel(w.code, w.constants));
        w.kernel = kernel;
    }
    return pass;
}

void LmPass::fill(LmActivations& a, const LmInputs& in) const {
    auto put = [&](uint64_t offset, const auto& values) {
        if (!values.empty())
            std::memcpy(a.upload.mapped().data() + offset, values.data(), values.size() * sizeof values[0]);
    };
    put(a.ids, in.ids);
    put(a.positions, in.positions);
    put(a.remaining, in.remaining);
    put(a.targets, in.targets);
    put(a.weights, in.weights);
    put(a.distinct, in.distinct);
    put(a.distinct_offsets, in.distinct_offsets);
    put(a.distinct_rows, in.distinct_rows);
}

// ---- forward --------------------------------------------------------------------------------------------------------

uint64_t LmPass::xAfter(const LmActivations& a, uint32_t layer) const {
    return layer + 1 < a.layers.size() ? a.layers[layer + 1].x : a.last_x;
}

Result<void> LmPass::forward(Commands& commands, const LmActivations& a, const Mixture& mixture,
                             uint32_t tokens) const {
    embed(commands, a, tokens);
    for (uint32_t l = 0; l < trunk_->config.layers; ++l) {
        beforeMixture(commands, a, l, tokens);
        VKMOE_CHECK(mixture(commands, l));
        afterMixture(commands, a, l, tokens);
    }
    head(commands, a, tokens);
    return {};
}

void LmPass::embed(Commands& commands, const LmActivations& a, uint32_t tokens) const {
    const LmConfig& c = trunk_->config;
    commands.copy(a.upload, 0, a.memory, 0, a.inputs_bytes);
    for (const auto& layer : a.layers) commands.fill(a.memory, layer.status, 8 * LmActivations::kStatusRows, 0);
    commands.fill(a.memory, a.head_status, 8 * LmActivations::kStatusRows, 0);
    commands.barrier();
    uint64_t first = a.layers.empty() ? a.last_x : a.layers[0].x;
    EmbedTokens rows{a.memory.at<U32>(a.ids), trunk_->memory.at<U32>(), a.memory.at<F32>(first), tokens, c.model_dim};
    commands.dispatch(*embed_, rows, uint64_t{tokens} * c.model_dim);
    commands.barrier();
}

void LmPass::head(Commands& commands, const LmActivations& a, uint32_t tokens) const {
    const LmConfig& c = trunk_->config;
    ApplyRule apply{a.memory.at<U32>(a.last_x), a.memory.at<F32>(a.head_x), statusAt(a, a.head_status, kHead),
                    tokens * c.model_dim, 0};
    commands.dispatch(*apply_, apply, apply.count);
    commands.barrier();
    RouterLogits logits{};
    logits.x = a.memory.at<F32>(a.head_x);
    logits.weight = trunk_->memory.at<U32>();
    logits.logits = a.memory.at<F32>(a.logits);
    logits.status = statusAt(a, a.head_status, kLogits);
    logits.tokens = tokens;
    logits.experts = c.vocab_size;
    logits.model_dim = c.model_dim;
    commands.dispatch(*head_, logits, uint64_t{tokens} * ceilDiv(c.vocab_size, kPanel) * kPanel);
    commands.barrier();
}

void LmPass::beforeMixture(Commands& commands, const LmActivations& a, uint32_t l, uint32_t tokens) const {
    const LmConfig& c = trunk_->config;
    const LmActivations::Layer& at = a.layers[l];
    const Trunk::Layer& weights = trunk_->layers[l];
    const Workspace& w = a.mixtures[at.workspace];
    const float epsilon = uintBitsToFloat(kEpsilonBits);
    uint64_t rows = uint64_t{a.history} * c.model_dim * 4;
    RmsNorm conv_norm{a.memory.at<F32>(at.x),
                      trunk_->memory.at<F32>(weights.norm_conv),
                      a.memory.at<F32>(at.n + rows),
                      a.memory.at<F32>(at.conv_roots),
                      statusAt(a, at.status, kConvNorm),
                      tokens,
                      c.model_dim,
                      epsilon,
                      0};
    commands.dispatch(*norm_, conv_norm, uint64_t{tokens} * kWorkgroup);
    commands.barrier();
    CausalConv conv{a.memory.at<F32>(at.x),
                    a.memory.at<F32>(at.n),
                    trunk_->memory.at<F32>(weights.conv),
                    a.memory.at<U32>(a.positions),
                    a.memory.at<F32>(at.u),
                    statusAt(a, at.status, kConv),
                    tokens,
                    c.model_dim,
                    c.conv_kernel,
                    a.history};
    commands.dispatch(*conv_, conv, uint64_t{tokens} * c.model_dim);
    commands.barrier();
    RmsNorm moe_norm{a.memory.at<F32>(at.u),
                     trunk_->memory.at<F32>(weights.norm_moe),
                     w.memory.at<F32>(w.raw),
                     a.memory.at<F32>(at.moe_roots),
                     statusAt(a, at.status, kMoeNorm),
                     tokens,
                     c.model_dim,
                     epsilon,
                     0};
    commands.dispatch(*norm_, moe_norm, uint64_t{tokens} * kWorkgroup);
    commands.barrier();
}

void LmPass::afterMixture(Commands& commands, const LmActivations& a, uint32_t l, uint32_t tokens) const {
    const LmConfig& c = trunk_->config;
    const LmActivations::Layer& at = a.layers[l];
    const Workspace& w = a.mixtures[at.workspace];
    AddRows sum{a.memory.at<F32>(at.u),       w.memory.at<F32>(w.out), a.memory.at<F32>(xAfter(a, l)),
                statusAt(a, at.status, kSum), tokens * c.model_dim,    0};
    commands.dispatch(*add_, sum, sum.count);
    uint64_t status = a.back.mixture_status + uint64_t{l} * 8 * Workspace::kStatusRows;
    commands.copy(w.memory, w.status, a.download, status, 8 * Workspace::kStatusRows);
    assert(w.token_of - w.offsets == a.back.token_of);
    commands.copy(w.memory, w.offsets, a.download, a.offsetsAt(l), a.back.token_of + uint64_t{tokens} * c.top_k * 4);
    commands.barrier();
}

void LmPass::shiftHistory(Commands& commands, const LmActivations& a, uint32_t tokens) const {
    uint64_t row = uint64_t{trunk_->config.model_dim} * 4, bytes = a.history * row;
    if (bytes == 0) return;
    for (const auto& layer : a.layers) {
        commands.copy(a.memory, layer.n + tokens * row, a.memory, a.shift, bytes);
        commands.barrier();
        commands.copy(a.memory, a.shift, a.memory, layer.n, bytes);
        commands.barrier();
    }
}

void LmPass::loss(Commands& commands, const LmActivations& a, uint32_t tokens, bool gradients) const {
    CrossEntropy p{a.memory.at<F32>(a.logits),
                   a.memory.at<U32>(a.targets),
                   a.memory.at<F32>(a.weights),
                   a.memory.at<F32>(a.logits),
                   a.memory.at<F32>(a.losses),
                   statusAt(a, a.head_status, kLoss),
                   tokens,
                   trunk_->config.vocab_size};
    commands.dispatch(gradients ? *loss_gradients_ : *loss_, p, uint64_t{tokens} * kWorkgroup);
    commands.barrier();
}

void LmPass::downloadResults(Commands& commands, const LmActivations& a, uint32_t tokens) const {
    commands.copy(a.memory, a.losses, a.download, a.back.losses, uint64_t{tokens} * 4);
    uint64_t rows = 8 * LmActivations::kStatusRows;
    for (size_t l = 0; l < a.layers.size(); ++l)
        commands.copy(a.memory, a.layers[l].status, a.download, a.back.status + l * rows, rows);
    commands.copy(a.memory, a.head_status, a.download, a.back.status + a.layers.size() * rows, rows);
}

// ---- backward -------------------------------------------------------------------------------------------------------

Result<void> LmPass::backward(Commands& commands, const LmActivations& a, const Mixture& again,
                              const MixtureBackward& mixture, const Gradients& g, const LmInputs& inputs) const {
    const LmConfig& c = trunk_->config;
    uint32_t tokens = inputs.tokens();
    headBackward(commands, a, g, tokens);
    for (uint32_t l = c.layers; l-- > 0;) {
        if (again && l + 1 < c.layers) {
            beforeMixture(commands, a, l, tokens);
            VKMOE_CHECK(again(commands, l));
        }
        VKMOE_CHECK(layerBackward(commands, a, mixture, g, l, tokens));
    }
    const BackwardWorkspace& b = *g.workspace;
    EmbedBackward embed{b.memory.at<F32>(b.grad_out),
                        a.memory.at<U32>(a.distinct),
                        a.memory.at<U32>(a.distinct_offsets),
                        a.memory.at<U32>(a.distinct_rows),
                        pointerTo<U32>(g.trunk),
                        statusAt(a, a.head_status, kHeadBackward),
                        uint32_t(inputs.distinct.size()),
                        c.model_dim};
    commands.dispatch(*embed_backward_, embed, uint64_t{embed.distinct} * c.model_dim);
    commands.barrier();
    return {};
}

// The tied embedding is the head's matrix: its gradient comes from both ends.
void LmPass::headBackward(Commands& commands, const LmActivations& a, const Gradients& g, uint32_t tokens) const {
    const LmConfig& c = trunk_->config;
    const BackwardWorkspace& b = *g.workspace;
    RouterLogitsBackward back{a.memory.at<F32>(a.logits),
                              trunk_->memory.at<U32>(),
                              b.memory.at<F32>(b.grad_out),
                              statusAt(a, a.head_status, kHeadBackward),
                              tokens,
                              c.vocab_size,
                              c.model_dim,
                              0};
    commands.dispatch(*head_backward_, back, denseThreads(tokens, c.model_dim));
    ExpertWeightGrad grad{};
    grad.grad_out = a.memory.at<F32>(a.logits);
    grad.x = a.memory.at<F32>(a.head_x);
    grad.pages = g.trunk_table->at<Pages>();
    grad.status = statusAt(a, a.head_status, kHeadBackward);
    grad.rows = c.vocab_size;
    grad.cols = c.model_dim;
    grad.experts = 1;
    grad.count = tokens;
    grad.last = 1;
    commands.dispatch(*head_weight_, grad, denseThreads(c.vocab_size, c.model_dim));
    commands.barrier();
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

Result<void> LmPass::layerBackward(Commands& commands, const LmActivations& a, const MixtureBackward& mixture,
                                   const Gradients& g, uint32_t l, uint32_t tokens) const {
    const LmConfig& c = trunk_->config;
    const LmActivations::Layer& at = a.layers[l];
    const Trunk::Layer& weights = trunk_->layers[l];
    const Workspace& w = a.mixtures[at.workspace];
    const BackwardWorkspace& b = *g.workspace;
    U32 status = statusAt(a, at.status, kBackward);
    BackwardPass::Batch batch{.tokens = tokens, .assignments = tokens * c.top_k};
    batch.balance_scale = g.balance_scale;
    batch.z_scale = g.z_scale;
    batch.counts = g.counts + uint64_t{l} * c.experts * 4;
    CountTokens count{w.memory.at<U32>(w.offsets), pointerTo<U32>(batch.counts), c.experts, 0};
    commands.dispatch(*count_, count, c.experts);
    count.counts = pointerTo<U32>(g.touched[l]);
    commands.dispatch(*count_, count, c.experts);
    commands.barrier();
    VKMOE_CHECK(mixture({commands, w, b, g.mixtures[l], batch}, l));
    uint64_t words = a.back.backward_status + uint64_t{l} * 8 * BackwardWorkspace::kStatusRows;
    commands.copy(b.memory, b.status, a.download, words, 8 * BackwardWorkspace::kStatusRows);
    F32 grad_out = b.memory.at<F32>(b.grad_out), grad_u = pointerTo<F32>(g.grad_u), grad_n = pointerTo<F32>(g.grad_n);
    normBackward(commands, a, at.u, at.moe_roots, weights.norm_moe, g.trunk + weights.norm_moe,
                 b.memory.at<F32>(b.grad_in), grad_out, grad_u, status, tokens);
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
    return {};
}

// ---- errors ---------------------------------------------------------------------------------------------------------

namespace {

// What a status row speaks of, and how many values a token has there; 0: the values belong to no token.
struct StatusRow {
    const char* what;
    uint32_t width;
};

// The first row that is not clean, as a sentence.
Result<void> checkRows(std::span<const uint32_t> words, std::span<const StatusRow> stages, const std::string& where) {
    for (size_t i = 0; i < stages.size(); ++i) {
        if (words[2 * i] == 0) continue;
        uint32_t index = ~words[2 * i + 1], width = stages[i].width;
        std::string first =
            width == 0 ? "" : fmt::format(", the first at token {}, element {}", index / width, index % width);
        return Error{ErrorCode::bad_input, fmt::format("{}{}: {} values are not finite or not below 2^63 in size{}",
                                                       where, stages[i].what, words[2 * i], first)};
    }
    return {};
}

Error inLayer(size_t layer, Error error) {
    error.detail = fmt::format("layers.{}.moe: {}", layer, error.detail);
    return error;
}

}  // namespace

Result<void> LmPass::check(const LmActivations& a, std::span<const ForwardPass* const> mixtures) const {
    const size_t rows = 2 * LmActivations::kStatusRows;
    auto trunk = view<uint32_t>(a.download, a.back.status, rows * (a.layers.size() + 1));
    auto mixture = view<uint32_t>(a.download, a.back.mixture_status, 2 * Workspace::kStatusRows * a.layers.size());
    const LmConfig& c = trunk_->config;
    const StatusRow layer[] = {{"conv norm", c.model_dim},
                               {"convolution", c.model_dim},
                               {"moe norm", c.model_dim},
                               {"the layer's sum", c.model_dim}};
    const StatusRow head[] = {
        {"the last layer's output", c.model_dim}, {"the logits", c.vocab_size}, {"the losses", c.vocab_size}};
    for (size_t l = 0; l < a.layers.size(); ++l) {
        VKMOE_CHECK(checkRows(trunk.subspan(l * rows, rows), layer, fmt::format("layers.{}: ", l)));
        auto slots = [&]() -> Result<SlotTable> {
            auto offsets = view<uint32_t>(a.download, a.offsetsAt(uint32_t(l)), size_t{c.experts} + 1);
            auto tokens = view<uint32_t>(a.download, a.tokensAt(uint32_t(l)), size_t{a.capacity} * c.top_k);
            return SlotTable{{offsets.begin(), offsets.end()}, {tokens.begin(), tokens.end()}};
        };
        auto inside = mixtures[l]->check(mixture.data() + l * 2 * Workspace::kStatusRows, c.top_k, 0, slots);
        if (!inside) return inLayer(l, std::move(inside).error());
    }
    return checkRows(trunk.last(rows), head, "");
}

Result<void> LmPass::checkBackward(const LmActivations& a, std::span<const BackwardPass* const> passes) const {
    const size_t rows = 2 * BackwardWorkspace::kStatusRows;
    auto words = view<uint32_t>(a.download, a.back.backward_status, rows * a.layers.size());
    const size_t trunk_rows = 2 * LmActivations::kStatusRows;
    auto trunk = view<uint32_t>(a.download, a.back.status, trunk_rows * (a.layers.size() + 1));
    const StatusRow layer[] = {{"gradients of norms and convolution", 0}};
    const StatusRow head[] = {{"gradients of the head and the embedding", 0}};
    for (size_t l = 0; l < a.layers.size(); ++l) {
        VKMOE_CHECK(checkRows(trunk.subspan(l * trunk_rows + 2 * kBackward), layer, fmt::format("layers.{}: ", l)));
        auto inside = passes[l]->check(words.data() + l * rows);
        if (!inside) return inLayer(l, std::move(inside).error());
    }
    return checkRows(trunk.last(trunk_rows).subspan(2 * kHeadBackward), head, "");
}

}  // namespace v1
}  // namespace vkmoe
