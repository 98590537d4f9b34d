#include "engine/train/backward_pass.h"

#include <fmt/format.h>

#include <algorithm>

#include "engine/moe/numerics.h"
#include "engine/train/gradient_forms.h"
#include "host/views.h"

namespace vkmoe {
inline namespace v1 {
namespace {

// Threads of a tiled GEMM over a family's rows.
uint64_t familyThreads(const Kernel& kernel, uint32_t rows, uint32_t experts, bool dense, uint32_t outputs) {
    return dense ? denseThreads(kernel, rows, outputs) : slotThreads(kernel, rows, experts, outputs);
}

}  // namespace

// ---- kernels --------------------------------------------------------------------------------------------------------

Result<BackwardPass::Family> BackwardPass::family(Engine& engine, WeightFormat up, WeightFormat down, bool gate_bias,
                                                  bool up_bias, bool down_bias, bool dense, Precision precision) const {
    const Kernels& k = kernels();
    auto activation = uint32_t(weights_->description.activation);
    uint32_t fused_up = operandBits(up, precision) < 24, fused_down = operandBits(down, precision) < 24;
    Family out;
    out.dense = dense;
    const Description& d = weights_->description;
    const uint32_t model_dim = d.model_dim, hidden_dim = dense ? d.shared_dim : d.hidden_dim;
    VKMOE_TRY(down_kernel,
              rowGradient(engine, k.expert_down_backward,
                          {.weight_format = uint32_t(down), .fused = fused_down, .dense = dense}, model_dim));
    VKMOE_TRY(activation_kernel, engine.kernel(k.activation_backward,
                                               {.operand_bits = operandBits(up, precision), .activation = activation}));
    VKMOE_TRY(up_kernel,
              rowGradient(engine, k.expert_up_backward,
                          {.weight_format = uint32_t(up), .fused = fused_up, .activation = activation, .dense = dense},
                          hidden_dim));
    out.down = down_kernel;
    out.activation = activation_kernel;
    out.up = up_kernel;
    // In rounded precision x has 8 bits and the gradient 16: their products are exact.
    auto grad = [&](bool bias, uint32_t fused, bool gather, uint32_t rows, uint32_t cols) {
        return weightGradient(engine,
                              {.operand_bits = fused != 0 ? 8u : 24u,
                               .fused = fused,
                               .bias = bias ? kBias : 0,
                               .dense = dense,
                               .gather = gather,
                               .carry = form_.carry,
                               .fresh = form_.fresh},
                              rows, cols);
    };
    VKMOE_TRY(gate_grad, grad(gate_bias, fused_up, !dense, hidden_dim, model_dim));
    VKMOE_TRY(up_grad, grad(up_bias, fused_up, !dense, hidden_dim, model_dim));
    VKMOE_TRY(down_grad, grad(down_bias, fused_down, false, model_dim, hidden_dim));
    out.gate_grad = gate_grad;
    out.up_grad = up_grad;
    out.down_grad = down_grad;
    return out;
}

Result<BackwardPass> BackwardPass::create(Engine& engine, const Weights& weights, Precision precision, Form form) {
    BackwardPass pass(weights, form);
    const Description& d = weights.description;
    VKMOE_CHECK(pass.buildRouting(engine, precision));
    VKMOE_TRY(routed, pass.family(engine, weights.up_format, weights.down_format, d.gate_bias, d.up_bias, d.down_bias,
                                  false, precision));
    pass.routed_ = routed;
    if (!pass.hasShared()) return pass;
    VKMOE_TRY(shared, pass.family(engine, weights.shared_up_format, weights.shared_down_format, d.shared_gate_bias,
                                  d.shared_up_bias, d.shared_down_bias, true, precision));
    pass.shared_ = shared;
    return pass;
}

// ---- recording ------------------------------------------------------------------------------------------------------

void BackwardPass::record(const Recording& r) const {
    Places routed_places = routed(r), shared_places = shared(r);
    startBackward(r);
    downBackward(r, routed_, routed_places);
    if (hasShared()) downBackward(r, shared_, shared_places);
    r.commands.barrier();
    lossBackward(r);
    activationBackward(r, routed_, routed_places);
    if (hasShared()) activationBackward(r, shared_, shared_places);
    r.commands.barrier();
    routerBackward(r);
    upBackward(r, routed_, routed_places);
    if (hasShared()) upBackward(r, shared_, shared_places);
    r.commands.barrier();
    dispatchBackward(r);
    r.commands.barrier();
}

// As far as the experts' outputs and the router's choices.
void BackwardPass::startBackward(const Recording& r) const {
    r.commands.fill(r.b.memory, r.b.status, 8 * BackwardWorkspace::kStatusRows, 0);
    r.commands.barrier();
    combineBackward(r);
    r.commands.barrier();
    routeBackward(r);
}

void BackwardPass::recordFirst(const Recording& r) const {
    startBackward(r);
    if (hasShared()) downBackward(r, shared_, shared(r));
    r.commands.barrier();
}

void BackwardPass::recordBetween(const Recording& r) const {
    r.commands.barrier();
    lossBackward(r);
    activationBackward(r, routed_, routed(r));
    if (hasShared()) activationBackward(r, shared_, shared(r));
    r.commands.barrier();
}

void BackwardPass::recordLast(const Recording& r) const {
    r.commands.barrier();
    routerBackward(r);
    if (hasShared()) upBackward(r, shared_, shared(r));
    r.commands.barrier();
    dispatchBackward(r);
    r.commands.barrier();
}

U32 BackwardPass::status(const Recording& r, size_t stage) const { return r.b.memory.at<U32>(r.b.status + stage * 8); }

BackwardPass::Places BackwardPass::routed(const Recording& r) const {
    const Workspace& f = r.f;
    const BackwardWorkspace& b = r.b;
    return {f.x,
            f.hidden,
            f.gate_total,
            f.up_total,
            b.grad_y,
            b.grad_hidden,
            b.grad_up,
            b.grad_x,
            weights_->description.hidden_dim,
            r.batch.tokens * f.width,
            &weights_->routed,
            &r.g.routed,
            kRouted};
}

BackwardPass::Places BackwardPass::shared(const Recording& r) const {
    const Workspace& f = r.f;
    const BackwardWorkspace& b = r.b;
    return {f.x,
            f.shared_hidden,
            f.shared_gate_total,
            f.shared_up_total,
            b.grad_shared_y,
            b.grad_shared_hidden,
            b.grad_shared_up,
            b.grad_shared_x,
            weights_->description.shared_dim,
            r.batch.tokens,
            &weights_->shared,
            &r.g.shared,
            kShared};
}

void BackwardPass::combineBackward(const Recording& r) const {
    const Workspace& f = r.f;
    const BackwardWorkspace& b = r.b;
    uint32_t tokens = r.batch.tokens, D = weights_->description.model_dim;
    CombineBackward combine{b.memory.at<F32>(b.grad_out),
                            f.memory.at<U32>(f.slot_of),
                            f.memory.at<F32>(f.gates),
                            f.memory.at<F32>(f.shared_gates),
                            b.memory.at<F32>(b.grad_y),
                            b.memory.at<F32>(b.grad_shared_y),
                            status(r, kGradY),
                            tokens,
                            D,
                            f.width,
                            0};
    r.commands.dispatch(*combine_, combine, uint64_t{tokens} * D);
    GateBackward gates{b.memory.at<F32>(b.grad_out),
                       f.memory.at<F32>(f.y),
                       f.memory.at<U32>(f.slot_of),
                       f.memory.at<F32>(f.shared_y),
                       f.memory.at<F32>(f.shared_gates),
                       b.memory.at<F32>(b.grad_gates),
                       b.memory.at<F32>(b.grad_shared_logits),
                       status(r, kGradGates),
                       tokens,
                       D,
                       f.width,
                       0};
    r.commands.dispatch(*gates_, gates, uint64_t{tokens} * (f.width + (hasSharedGate() ? 1 : 0)) * kWorkgroup);
}

void BackwardPass::downBackward(const Recording& r, const Family& family, const Places& p) const {
    const Description& d = weights_->description;
    ExpertDownBackward down{r.b.memory.at<F32>(p.grad_y),
                            weights_->table.at<Pages>(),
                            r.f.memory.at<U32>(r.f.offsets),
                            r.f.memory.at<U32>(r.f.tiles),
                            r.f.memory.at<U32>(r.f.tile_count),
                            r.b.memory.at<F32>(p.grad_hidden),
                            status(r, p.stage),
                            d.model_dim,
                            p.hidden_dim,
                            p.weights->down_weight,
                            p.rows,
                            weights_->sharedPage(),
                            0};
    r.commands.dispatch(*family.down, down, familyThreads(*family.down, p.rows, d.experts, family.dense, p.hidden_dim));
    ExpertWeightGrad grad{};
    grad.grad_out = r.b.memory.at<F32>(p.grad_y);
    grad.x = r.f.memory.at<F32>(p.hidden);
    grad.rows = d.model_dim;
    grad.cols = p.hidden_dim;
    grad.weight = p.gradients->down_weight;
    grad.bias = p.gradients->down_bias;
    grad.count = p.rows;
    grad.dense_page = weights_->sharedPage();
    weightGrad(r, *family.down_grad, grad);
}

void BackwardPass::activationBackward(const Recording& r, const Family& family, const Places& p) const {
    uint32_t count = p.rows * p.hidden_dim;
    ActivationBackward a{r.f.memory.at<F32>(p.gate_total),
                         r.f.memory.at<F32>(p.up_total),
                         r.b.memory.at<F32>(p.grad_hidden),
                         r.b.memory.at<F32>(p.grad_hidden),
                         r.b.memory.at<F32>(p.grad_up),
                         status(r, p.stage + 1),
                         count,
                         weights_->description.swiglu_limit,
                         weights_->description.swiglu_alpha,
                         0};
    r.commands.dispatch(*family.activation, a, count);
}

void BackwardPass::upBackward(const Recording& r, const Family& family, const Places& p) const {
    const Description& d = weights_->description;
    ExpertUpBackward up{r.b.memory.at<F32>(p.grad_hidden),
                        r.b.memory.at<F32>(p.grad_up),
                        weights_->table.at<Pages>(),
                        r.f.memory.at<U32>(r.f.offsets),
                        r.f.memory.at<U32>(r.f.tiles),
                        r.f.memory.at<U32>(r.f.tile_count),
                        r.b.memory.at<F32>(p.grad_x),
                        status(r, p.stage + 2),
                        d.model_dim,
                        p.hidden_dim,
                        p.weights->gate_weight,
                        p.weights->up_weight,
                        p.rows,
                        weights_->sharedPage()};
    if (r.batch.input)
        r.commands.dispatch(*family.up, up, familyThreads(*family.up, p.rows, d.experts, family.dense, d.model_dim));
    ExpertWeightGrad grad{};
    grad.grad_out = r.b.memory.at<F32>(p.grad_up);
    grad.x = r.f.memory.at<F32>(p.x);
    grad.rows = p.hidden_dim;
    grad.cols = d.model_dim;
    grad.weight = p.gradients->up_weight;
    grad.bias = p.gradients->up_bias;
    grad.count = p.rows;
    grad.dense_page = weights_->sharedPage();
    weightGrad(r, *family.up_grad, grad);
    if (!d.gated()) return;
    grad.grad_out = r.b.memory.at<F32>(p.grad_hidden);
    grad.weight = p.gradients->gate_weight;
    grad.bias = p.gradients->gate_bias;
    weightGrad(r, *family.gate_grad, grad);
}

// What all parameter gradients have in common.
void BackwardPass::weightGrad(const Recording& r, const Kernel& kernel, ExpertWeightGrad p) const {
    bool dense = named(kernel.constants).dense != 0;
    p.pages = r.g.table->at<Pages>();
    p.totals = pointerTo<Pages>(r.batch.totals);
    p.partials = pointerTo<Pages>(r.batch.partials);
    p.carried = pointerTo<U32>(r.batch.carried);
    p.offsets = r.f.memory.at<U32>(r.f.offsets);
    p.token_of = r.f.memory.at<U32>(r.f.token_of);
    p.status = status(r, kWeights);
    p.experts = weights_->description.experts;
    p.last = r.batch.last;
    uint64_t matrices = dense ? 1 : p.experts;
    r.commands.dispatch(kernel, p, matrices * denseThreads(kernel, p.rows, p.cols));
}

void BackwardPass::dispatchBackward(const Recording& r) const {
    if (!r.batch.input) return;
    const BackwardWorkspace& b = r.b;
    uint32_t tokens = r.batch.tokens, D = weights_->description.model_dim;
    DispatchBackward p{b.memory.at<F32>(b.grad_x),
                       r.f.memory.at<U32>(r.f.slot_of),
                       b.memory.at<F32>(b.grad_shared_x),
                       b.memory.at<F32>(b.grad_shared_logits),
                       weights_->router.at<F32>(weights_->shared_router),
                       b.memory.at<F32>(b.grad_router_x),
                       b.memory.at<F32>(b.grad_in),
                       status(r, kGradInput),
                       tokens,
                       D,
                       r.f.width,
                       0};
    r.commands.dispatch(*dispatch_, p, uint64_t{tokens} * D);
}

// ---- errors ---------------------------------------------------------------------------------------------------------

Result<void> BackwardPass::check(const uint32_t* words) const {
    static constexpr const char* kWhat[] = {"the gradients of the experts' outputs",
                                            "the gradients of the gates",
                                            "the gradients of the router's logits",
                                            "the gradients of the experts' hidden values",
                                            "the gradients of the experts' totals",
                                            "the gradients of the experts' inputs",
                                            "the gradients of the shared expert's hidden values",
                                            "the gradients of the shared expert's totals",
                                            "the gradients of the shared expert's input",
                                            "the gradients of the weights",
                                            "the router's part of the input gradient",
                                            "the gradient of the layer's input"};
    for (size_t i = 0; i < std::size(kWhat); ++i)
        if (words[2 * i] != 0)
            return Error{ErrorCode::bad_input,
                         fmt::format("{}: {} values are not finite or not below 2^63 in size, the first is element {}",
                                     kWhat[i], words[2 * i], ~words[2 * i + 1])};
    return {};
}

}  // namespace v1
}  // namespace vkmoe
