#include "engine/moe/forward_pass.h"

#include <fmt/format.h>

#include <algorithm>

#include "engine/ceil_div.h"
#include "engine/moe/numerics.h"
#include "engine/moe/token_lanes.h"

namespace vkmoe {
inline namespace v1 {

// ---- kernels --------------------------------------------------------------------------------------------------------

Result<ForwardPass::ExpertKernels> ForwardPass::experts(Engine& engine, WeightFormat up, WeightFormat down,
                                                        Biases biases, bool dense, Precision precision) const {
    ExpertKernels out;
    out.operand_bits = operandBits(up, precision);
    auto activation = uint32_t(weights_->description.activation);
    Constants c{.weight_format = uint32_t(up),
                .operand_bits = operandBits(down, precision),
                .fused = out.operand_bits < 24,
                .activation = activation,
                .bias = (biases.up ? kBias : 0) | (biases.gate ? kGateBias : 0),
                .dense = dense,
                .keep_totals = keep_totals_};
    Constants down_constants{.weight_format = uint32_t(down),
                             .fused = operandBits(down, precision) < 24,
                             .bias = biases.down ? kBias : 0,
                             .dense = dense};
    const Description& d = weights_->description;
    VKMOE_TRY(forms, ExpertForms::create(engine, c, down_constants, d.model_dim, dense ? d.shared_dim : d.hidden_dim));
    out.forms = std::move(forms);
    out.up = c;
    out.down = down_constants;
    return out;
}

// Kernels that few layers need: building and proving one takes time.
Result<void> ForwardPass::buildOptional(Engine& engine, const Constants& routing) {
    const Description& d = weights_->description;
    if (d.noise_std != 0) {
        VKMOE_TRY(noise, engine.kernel(kernels().add_noise, {}));
        noise_ = noise;
    }
    if (d.dispatch == Dispatch::capacity) {
        VKMOE_TRY(capacity, engine.kernel(kernels().assign_capacity, {.score = routing.score,
                                                                      .renormalize = routing.renormalize,
                                                                      .scaled = routing.scaled}));
        capacity_ = capacity;
    }
    if (d.shared == Shared::sigmoid_gated) {
        VKMOE_TRY(shared_gate, engine.kernel(kernels().shared_gate, {}));
        shared_gate_ = shared_gate;
    }
    return {};
}

Result<void> ForwardPass::buildRouting(Engine& engine, Precision precision) {
    const Description& d = weights_->description;
    lanes_ = lanesFor(d.experts);
    VKMOE_TRY(apply, engine.kernel(kernels().apply_rule, {.operand_bits = 24}));
    VKMOE_TRY(rounded,
              engine.kernel(kernels().apply_rule, {.operand_bits = operandBits(weights_->up_format, precision)}));
    VKMOE_TRY(shared, engine.kernel(kernels().apply_rule,
                                    {.operand_bits = operandBits(weights_->shared_up_format, precision)}));
    VKMOE_TRY(logits, engine.kernel(kernels().router_logits, {.bias = d.router_bias}));
    uint32_t group_score = d.groups == 1 ? kNoGroups : d.group_score == GroupScore::max ? kGroupMax : kGroupSumOfTop2;
    Constants routing{.score = uint32_t(d.score),
                      .renormalize = d.renormalize,
                      .selection_bias = d.selection_bias,
                      .scaled = d.routed_scale != 1,
                      .probabilities = introspection_,
                      .lanes = lanes_,
                      .group_score = group_score,
                      .capacity = d.dispatch == Dispatch::capacity};
    routing_ = routing;
    VKMOE_TRY(topk, engine.kernel(kernels().route_topk, routing));
    VKMOE_CHECK(buildOptional(engine, routing));
    VKMOE_TRY(count, engine.kernel(kernels().bin_count, {}));
    VKMOE_TRY(offsets, engine.kernel(kernels().bin_offsets, {}));
    VKMOE_TRY(bin, engine.kernel(kernels().bin_tokens, {}));
    uint32_t order = d.shared == Shared::none               ? kSharedNone
                     : d.shared_order == SharedOrder::first ? kSharedFirst
                                                            : kSharedLast;
    VKMOE_TRY(combine,
              engine.kernel(kernels().combine, {.shared = order, .shared_gate = d.shared == Shared::sigmoid_gated}));
    VKMOE_TRY(stats, engine.kernel(kernels().slot_stats, {}));
    apply_ = apply;
    apply_rounded_ = rounded;
    apply_shared_ = shared;
    logits_ = logits;
    topk_ = topk;
    count_ = count;
    offsets_ = offsets;
    tokens_ = bin;
    combine_ = combine;
    stats_ = stats;
    return {};
}

Result<ForwardPass> ForwardPass::create(Engine& engine, const Weights& weights, Precision precision, bool introspection,
                                        bool keep_totals) {
    ForwardPass pass(weights, introspection, keep_totals);
    const Description& d = weights.description;
    VKMOE_CHECK(pass.buildRouting(engine, precision));
    VKMOE_TRY(routed, pass.experts(engine, weights.up_format, weights.down_format,
                                   {d.gate_bias, d.up_bias, d.down_bias}, false, precision));
    pass.routed_ = routed;
    if (d.shared == Shared::none) return pass;
    VKMOE_TRY(shared, pass.experts(engine, weights.shared_up_format, weights.shared_down_format,
                                   {d.shared_gate_bias, d.shared_up_bias, d.shared_down_bias}, true, precision));
    pass.shared_ = shared;
    return pass;
}

// ---- recording ------------------------------------------------------------------------------------------------------

// What expert_up and expert_down are told alike: pages, work list and dimensions.
template <class Params>
Params ForwardPass::expertParams(const Workspace& w, uint32_t hidden_dim) const {
    Params p{};
    p.pages = weights_->table.at<Pages>();
    p.offsets = w.memory.at<U32>(w.offsets);
    p.tiles = w.memory.at<U32>(w.tiles);
    p.tile_count = w.memory.at<U32>(w.tile_count);
    p.model_dim = weights_->description.model_dim;
    p.hidden_dim = hidden_dim;
    p.dense_page = weights_->sharedPage();
    p.experts = weights_->description.experts;
    return p;
}

ExpertUp ForwardPass::upParams(const Workspace& w, const PageLayout& layout, uint32_t hidden_dim, uint64_t x,
                               uint64_t hidden) const {
    auto p = expertParams<ExpertUp>(w, hidden_dim);
    p.x = w.memory.at<F32>(x);
    p.token_of = w.memory.at<U32>(w.token_of);
    p.hidden = w.memory.at<F32>(hidden);
    p.gate_weight = layout.gate_weight;
    p.up_weight = layout.up_weight;
    p.gate_bias = layout.gate_bias;
    p.up_bias = layout.up_bias;
    p.swiglu_limit = weights_->description.swiglu_limit;
    p.swiglu_alpha = weights_->description.swiglu_alpha;
    return p;
}

ExpertDown ForwardPass::downParams(const Workspace& w, const PageLayout& layout, uint32_t hidden_dim, uint64_t hidden,
                                   uint64_t y) const {
    auto p = expertParams<ExpertDown>(w, hidden_dim);
    p.hidden = w.memory.at<F32>(hidden);
    p.y = w.memory.at<F32>(y);
    p.down_weight = layout.down_weight;
    p.down_bias = layout.down_bias;
    return p;
}

void ForwardPass::sharedUp(Commands& commands, const Workspace& w, uint32_t tokens) const {
    uint32_t S = weights_->description.shared_dim;
    ExpertUp p = upParams(w, weights_->shared, S, sharedOperands(w), w.shared_hidden);
    p.status = status(w, kSharedHidden);
    p.rows = tokens;
    p.gate_total = w.memory.at<F32>(w.shared_gate_total);
    p.up_total = w.memory.at<F32>(w.shared_up_total);
    const ExpertForm& form = shared_.forms.choose(tokens, 1, std::max(S, p.model_dim));
    commands.dispatch(*form.up, p, shared_.forms.threads(form, tokens, S));
}

void ForwardPass::sharedDown(Commands& commands, const Workspace& w, uint32_t tokens) const {
    uint32_t D = weights_->description.model_dim;
    ExpertDown p = downParams(w, weights_->shared, weights_->description.shared_dim, w.shared_hidden, w.shared_y);
    p.status = status(w, kSharedOutput);
    p.rows = tokens;
    const ExpertForm& form = shared_.forms.choose(tokens, 1, std::max(D, p.hidden_dim));
    commands.dispatch(*form.down, p, shared_.forms.threads(form, tokens, D));
}

ForwardPass::ExpertWork ForwardPass::expertWork(const Workspace& w, uint32_t tokens) const {
    uint32_t F = weights_->description.hidden_dim;
    ExpertWork work{routed_.up, routed_.down, upParams(w, weights_->routed, F, operands(w), w.hidden),
                    downParams(w, weights_->routed, F, w.hidden, w.y)};
    work.up.status = status(w, kHidden);
    work.down.status = status(w, kOutput);
    work.up.rows = work.down.rows = tokens * w.width;
    work.up.gate_total = w.memory.at<F32>(w.gate_total);
    work.up.up_total = w.memory.at<F32>(w.up_total);
    return work;
}

void ForwardPass::recordExperts(Commands& commands, const Workspace& w, uint32_t tokens) const {
    const Description& d = weights_->description;
    uint32_t slots = tokens * w.width;
    const ExpertWork work = expertWork(w, tokens);
    const ExpertUp& up = work.up;
    const ExpertDown& down = work.down;
    const ExpertForm& form = routed_.forms.choose(slots, d.experts, std::max(d.model_dim, d.hidden_dim));
    if (form.rows == 0) {
        commands.dispatch(*form.up, up, routed_.forms.threads(form, slots, d.hidden_dim));
        commands.barrier();
        commands.dispatch(*form.down, down, routed_.forms.threads(form, slots, d.model_dim));
    } else {
        commands.dispatchIndirect(*form.up, up, w.memory, w.up_groups);
        commands.barrier();
        commands.dispatchIndirect(*form.down, down, w.memory, w.down_groups);
    }
    commands.barrier();
}

void ForwardPass::recordTail(Commands& commands, const Workspace& w, uint32_t tokens) const {
    const Description& d = weights_->description;
    uint32_t slots = tokens * w.width;
    Combine p{w.memory.at<F32>(w.y),
              w.memory.at<U32>(w.slot_of),
              w.memory.at<F32>(w.gates),
              w.memory.at<F32>(w.shared_y),
              w.memory.at<F32>(w.shared_gates),
              w.memory.at<F32>(w.out),
              status(w, kResult),
              tokens,
              d.model_dim,
              w.width,
              0};
    commands.dispatch(*combine_, p, uint64_t{tokens} * d.model_dim);
    if (introspection_) {
        SlotStats stats{w.memory.at<F32>(w.hidden),
                        w.memory.at<F32>(w.y),
                        w.memory.at<F32>(w.energy),
                        w.memory.at<U32>(w.scale),
                        w.memory.at<U32>(w.quiet),
                        slots,
                        d.hidden_dim,
                        d.model_dim,
                        0};
        commands.dispatch(*stats_, stats, slots);
    }
    commands.barrier();
}

void ForwardPass::recordSum(Commands& commands, const Workspace& w, uint32_t tokens) const {
    AddRows p{w.memory.at<F32>(w.raw),
              w.memory.at<F32>(w.out),
              w.memory.at<F32>(w.out),
              status(w, kSum),
              tokens * weights_->description.model_dim,
              0};
    commands.dispatch(*sum_, p, p.count);
    commands.barrier();
}

void ForwardPass::recordFacts(Commands& commands, const Workspace& w, uint32_t tokens, const HostArea& host) const {
    uint64_t slots = uint64_t{tokens} * w.width;
    auto fetch = [&](uint64_t from, uint64_t to, uint64_t words) {
        commands.copy(w.memory, from, *host.download, host.download_at + to, words * 4);
    };
    fetch(w.selected, w.back.selected, slots);
    fetch(w.gates, w.back.gates, slots);
    fetch(w.status, w.back.status, 2 * Workspace::kStatusRows);
    if (!introspection_) return;
    fetch(w.probabilities, w.back.probabilities, uint64_t{tokens} * weights_->description.experts);
    fetch(w.slot_of, w.back.slot_of, slots);
    fetch(w.energy, w.back.energy, slots);
    fetch(w.scale, w.back.scale, slots);
    fetch(w.quiet, w.back.quiet, slots);
}

// ---- reading ahead --------------------------------------------------------------------------------------------------

Result<void> ForwardPass::prepareSum(Engine& engine) {
    VKMOE_TRY(sum, engine.kernel(kernels().add_rows, {}));
    sum_ = sum;
    return {};
}

// ---- errors ---------------------------------------------------------------------------------------------------------

std::vector<Stage> ForwardPass::stages(uint32_t width) const {
    const Description& d = weights_->description;
    return {{"the input", d.model_dim},
            {"the router logits", d.experts},
            {"the gates", width},
            {"the shared expert's gate", 1},
            {"the shared expert's hidden values", d.shared_dim},
            {"the shared expert's output", d.model_dim},
            {"the experts' hidden values", d.hidden_dim, true},
            {"the experts' outputs", d.model_dim, true},
            {"the layer's output", d.model_dim},
            {"the sums with the layer's input", d.model_dim}};
}

void ForwardPass::mergeStatus(std::span<uint32_t> words, std::span<const uint32_t, 4> elsewhere) {
    for (size_t i = 0; i < 2; ++i) {
        uint32_t* row = words.data() + 2 * (i == 0 ? kHidden : kOutput);
        row[0] += elsewhere[2 * i];
        row[1] = std::max(row[1], elsewhere[2 * i + 1]);
    }
}

Result<void> ForwardPass::check(const uint32_t* words, uint32_t width, uint64_t first_token,
                                const SlotTables& slots) const {
    auto all = stages(width);
    for (size_t i = 0; i < all.size(); ++i) {
        if (words[2 * i] == 0) continue;
        uint64_t index = ~words[2 * i + 1], row = index / all[i].row_width;
        std::string place = fmt::format("token {}", first_token + row);
        if (all[i].of_slots) {
            VKMOE_TRY(table, slots());
            place = table.place(row, first_token);
        }
        return Error{ErrorCode::bad_input,
                     fmt::format("{}: {} values are not finite or not below 2^63 in size, the first at {}, element {}",
                                 all[i].what, words[2 * i], place, index % all[i].row_width)};
    }
    return {};
}

}  // namespace v1
}  // namespace vkmoe
