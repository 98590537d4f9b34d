#include "engine/models/lm_pass.h"

#include <algorithm>
#include <cassert>
#include <numeric>

#include "engine/ceil_div.h"
#include "engine/train/gradient_forms.h"
#include "host/views.h"
#include "shaders/exact_math.h"

namespace vkmoe {
inline namespace v1 {
namespace {

constexpr uint32_t kEpsilonBits = 0x3727c5ac;  // 1e-5

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
        {pass.count_, k.count_tokens, {}, true},
    };
    for (const Wanted& w : wanted) {
        if (w.training && !training) continue;
        VKMOE_TRY(kernel, engine.kernel(w.code, w.constants));
        w.kernel = kernel;
    }
    if (!training) return pass;
    const uint32_t vocabulary = trunk.config.vocab_size;
    Constants dense{.operand_bits = 24, .dense = 1};
    VKMOE_TRY(head_backward, rowGradient(engine, k.router_logits_backward, {}, vocabulary));
    VKMOE_TRY(head_weight, weightGradient(engine, dense, vocabulary, trunk.config.model_dim));
    dense.carry = 1;
    VKMOE_TRY(head_carry, weightGradient(engine, dense, vocabulary, trunk.config.model_dim));
    pass.head_backward_ = head_backward;
    pass.head_weight_ = head_weight;
    pass.head_carry_ = head_carry;
    return pass;
}

void LmPass::fill(LmActivations& a, const LmInputs& in) const {
    auto put = [&](uint64_t offset, const auto& values) {
        if (!values.empty())
            std::memcpy(a.upload.mapped().data() + offset, values.data(), values.size() * sizeof values[0]);
    };
    for (const LmChunk& chunk : a.cut(in.tokens()))
        put(a.targetsAt(chunk), std::span(in.targets).subspan(chunk.first, chunk.tokens));
    put(a.ids, in.ids);
    put(a.positions, in.positions);
    put(a.remaining, in.remaining);
    put(a.weights, in.weights);
    put(a.distinct, in.distinct);
    put(a.distinct_offsets, in.distinct_offsets);
    put(a.distinct_rows, in.distinct_rows);
}

// ---- forward --------------------------------------------------------------------------------------------------------

uint64_t LmPass::xAfter(const LmActivations& a, uint32_t layer) const {
    return layer + 1 < a.layers.size() ? a.layers[layer + 1].x : a.last_x;
}

Result<void> LmPass::forward(Commands& commands, const LmActivations& a, const Mixture& mixture, uint32_t tokens,
                             const Loads* loads) const {
    embed(commands, a, tokens);
    const auto chunks = a.cut(tokens);
    for (uint32_t l = 0; l < trunk_->config.layers; ++l) {
        beforeMixtures(commands, a, l, tokens);
        for (const LmChunk& chunk : chunks) {
            beforeMixture(commands, a, l, chunk);
            VKMOE_CHECK(mixture(commands, l, chunk));
            afterMixture(commands, a, l, chunk, loads);
        }
    }
    afterLayers(commands, a, tokens);
    return {};
}

void LmPass::embed(Commands& commands, const LmActivations& a, uint32_t tokens) const {
    const LmConfig& c = trunk_->config;
    commands.copy(a.upload, 0, a.memory, 0, a.inputs_bytes);
    const uint64_t status = 8 * LmActivations::kStatusRows * uint64_t{a.chunks()};
    for (const auto& layer : a.layers) commands.fill(a.memory, layer.status, status, 0);
    commands.fill(a.memory, a.head_status, status, 0);
    commands.barrier();
    uint64_t first = a.layers.empty() ? a.last_x : a.layers[0].x;
    EmbedTokens rows{a.memory.at<U32>(a.ids), trunk_->memory.at<U32>(), a.memory.at<F32>(first), tokens, c.model_dim};
    commands.dispatch(*embed_, rows, uint64_t{tokens} * c.model_dim);
    commands.barrier();
}

void LmPass::afterLayers(Commands& commands, const LmActivations& a, uint32_t tokens) const {
    ApplyRule apply{a.memory.at<U32>(a.last_x), a.memory.at<F32>(a.head_x), statusAt(a, a.head_status, kHead),
                    tokens * trunk_->config.model_dim, 0};
    commands.dispatch(*apply_, apply, apply.count);
    commands.barrier();
}

void LmPass::logits(Commands& commands, const LmActivations& a, const LmChunk& chunk) const {
    const LmConfig& c = trunk_->config;
    RouterLogits logits{};
    logits.x = a.memory.at<F32>(a.rowsAt(a.head_x, chunk, c.model_dim));
    logits.weight = trunk_->memory.at<U32>();
    logits.logits = a.memory.at<F32>(a.logits);
    logits.status = statusAt(a, a.head_status, kLogits, chunk);
    logits.tokens = chunk.tokens;
    logits.experts = c.vocab_size;
    logits.model_dim = c.model_dim;
    commands.dispatch(*head_, logits, uint64_t{chunk.tokens} * ceilDiv(c.vocab_size, kPanel) * kPanel);
    commands.barrier();
}

// The convolution mixes tokens: it goes over all of them at once.
void LmPass::beforeMixtures(Commands& commands, const LmActivations& a, uint32_t l, uint32_t tokens) const {
    const LmConfig& c = trunk_->config;
    const LmActivations::Layer& at = a.layers[l];
    const Trunk::Layer& weights = trunk_->layers[l];
    uint64_t rows = uint64_t{a.history} * c.model_dim * 4;
    RmsNorm conv_norm{a.memory.at<F32>(at.x),
                      trunk_->memory.at<F32>(weights.norm_conv),
                      a.memory.at<F32>(at.n + rows),
                      a.memory.at<F32>(at.conv_roots),
                      statusAt(a, at.status, kConvNorm),
                      tokens,
                      c.model_dim,
                      uintBitsToFloat(kEpsilonBits),
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
}

void LmPass::beforeMixture(Commands& commands, const LmActivations& a, uint32_t l, const LmChunk& chunk) const {
    const uint32_t D = trunk_->config.model_dim;
    const LmActivations::Layer& at = a.layers[l];
    const Workspace& w = a.mixture(l, chunk);
    RmsNorm norm{a.memory.at<F32>(a.rowsAt(at.u, chunk, D)),
                 trunk_->memory.at<F32>(trunk_->layers[l].norm_moe),
                 w.memory.at<F32>(w.raw),
                 a.memory.at<F32>(a.rowsAt(at.moe_roots, chunk, 1)),
                 statusAt(a, at.status, kMoeNorm, chunk),
                 chunk.tokens,
                 D,
                 uintBitsToFloat(kEpsilonBits),
                 0};
    commands.dispatch(*norm_, norm, uint64_t{chunk.tokens} * kWorkgroup);
    commands.barrier();
}

void LmPass::afterMixture(Commands& commands, const LmActivations& a, uint32_t l, const LmChunk& chunk,
                          const Loads* loads) const {
    const LmConfig& c = trunk_->config;
    const LmActivations::Layer& at = a.layers[l];
    const Workspace& w = a.mixture(l, chunk);
    AddRows sum{a.memory.at<F32>(a.rowsAt(at.u, chunk, c.model_dim)),
                w.memory.at<F32>(w.out),
                a.memory.at<F32>(a.rowsAt(xAfter(a, l), chunk, c.model_dim)),
                statusAt(a, at.status, kSum, chunk),
                chunk.tokens * c.model_dim,
                0};
    commands.dispatch(*add_, sum, sum.count);
    if (loads) {
        count(commands, w.memory.at<U32>(w.offsets), loads->counts + uint64_t{l} * c.experts * 4);
        count(commands, w.memory.at<U32>(w.offsets), loads->touched[l]);
    }
    commands.copy(w.memory, w.status, a.download, a.mixtureStatusAt(l, chunk), 8 * Workspace::kStatusRows);
    assert(w.token_of - w.offsets == a.back.token_of);
    uint64_t sorted = a.back.token_of + uint64_t{chunk.tokens} * c.top_k * 4;
    commands.copy(w.memory, w.offsets, a.download, a.offsetsAt(l, chunk), sorted);
    commands.barrier();
}

void LmPass::count(Commands& commands, U32 offsets, uint64_t counts) const {
    CountTokens p{offsets, pointerTo<U32>(counts), trunk_->config.experts, 0};
    commands.dispatch(*count_, p, p.experts);
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

void LmPass::loss(Commands& commands, const LmActivations& a, const LmChunk& chunk, bool gradients) const {
    CrossEntropy p{a.memory.at<F32>(a.logits),
                   a.memory.at<U32>(a.targetsAt(chunk)),
                   a.memory.at<F32>(a.rowsAt(a.weights, chunk, 1)),
                   a.memory.at<F32>(a.logits),
                   a.memory.at<F32>(a.rowsAt(a.losses, chunk, 1)),
                   statusAt(a, a.head_status, kLoss, chunk),
                   chunk.tokens,
                   trunk_->config.vocab_size};
    commands.dispatch(gradients ? *loss_gradients_ : *loss_, p, uint64_t{chunk.tokens} * kWorkgroup);
    commands.barrier();
}

void LmPass::downloadResults(Commands& commands, const LmActivations& a, uint32_t tokens) const {
    commands.copy(a.memory, a.losses, a.download, a.back.losses, uint64_t{tokens} * 4);
    uint64_t rows = 8 * LmActivations::kStatusRows * uint64_t{a.chunks()};
    for (size_t l = 0; l < a.layers.size(); ++l)
        commands.copy(a.memory, a.layers[l].status, a.download, a.back.status + l * rows, rows);
    commands.copy(a.memory, a.head_status, a.download, a.back.status + a.layers.size() * rows, rows);
}

}  // namespace v1
}  // namespace vkmoe
