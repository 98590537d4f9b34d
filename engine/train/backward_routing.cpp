// BackwardPass through the router: gates to logits, the losses of its balance, its own weights, and the shared gate's.
#include "engine/moe/numerics.h"
#include "engine/moe/token_lanes.h"
#include "engine/train/backward_pass.h"
#include "engine/train/gradient_forms.h"
#include "shaders/exact_math.h"

namespace vkmoe {
inline namespace v1 {

Result<void> BackwardPass::buildRouting(Engine& engine, Precision precision) {
    const Description& d = weights_->description;
    const Kernels& k = kernels();
    operand_bits_ = operandBits(weights_->down_format, precision);
    lanes_ = lanesFor(d.experts);
    uint32_t order = hasShared() ? kSharedFirst : kSharedNone;
    VKMOE_TRY(combine, engine.kernel(k.combine_backward,
                                     {.operand_bits = operand_bits_, .shared = order, .shared_gate = hasSharedGate()}));
    VKMOE_TRY(gates, engine.kernel(k.gate_backward, {.shared_gate = hasSharedGate()}));
    VKMOE_TRY(topk, engine.kernel(k.route_topk_backward, {.score = uint32_t(d.score),
                                                          .renormalize = d.renormalize,
                                                          .scaled = d.routed_scale != 1,
                                                          .lanes = lanes_}));
    VKMOE_TRY(losses, engine.kernel(k.router_loss_backward, {.lanes = lanes_}));
    VKMOE_TRY(router, rowGradient(engine, k.router_logits_backward, {}, d.experts));
    VKMOE_TRY(router_grad,
              weightGradient(engine,
                             {.operand_bits = 24, .bias = d.router_bias ? kBias : 0, .dense = 1, .carry = form_.carry},
                             d.experts, d.model_dim));
    VKMOE_TRY(dispatch, engine.kernel(k.dispatch_backward, {.shared = order, .shared_gate = hasSharedGate()}));
    combine_ = combine;
    gates_ = gates;
    topk_ = topk;
    losses_ = losses;
    router_ = router;
    router_grad_ = router_grad;
    dispatch_ = dispatch;
    if (!hasSharedGate()) return {};
    VKMOE_TRY(shared_gate, engine.kernel(k.shared_gate_backward, {}));
    shared_gate_ = shared_gate;
    return {};
}

void BackwardPass::routeBackward(const Recording& r) const {
    const Description& d = weights_->description;
    RouteTopkBackward p{r.f.memory.at<F32>(r.f.logits),
                        r.f.memory.at<U32>(r.f.selected),
                        r.b.memory.at<F32>(r.b.grad_gates),
                        r.b.memory.at<F32>(r.b.grad_logits),
                        status(r, kGradLogits),
                        r.batch.tokens,
                        d.experts,
                        r.f.width,
                        state_rule(d.renormalize_epsilon),
                        d.routed_scale,
                        0};
    r.commands.dispatch(*topk_, p, uint64_t{r.batch.tokens} * lanes_);
}

void BackwardPass::lossBackward(const Recording& r) const {
    if (r.batch.balance_scale == 0 && r.batch.z_scale == 0) return;
    RouterLossBackward p{r.f.memory.at<F32>(r.f.logits),
                         pointerTo<U32>(r.batch.counts),
                         r.b.memory.at<F32>(r.b.grad_logits),
                         status(r, kGradLogits),
                         r.batch.tokens,
                         weights_->description.experts,
                         r.batch.assignments,
                         r.batch.balance_scale,
                         r.batch.z_scale,
                         0};
    r.commands.dispatch(*losses_, p, uint64_t{r.batch.tokens} * lanes_);
}

// The router's page is its panels, then its bias.
void BackwardPass::routerBackward(const Recording& r) const {
    const Description& d = weights_->description;
    RouterLogitsBackward p{r.b.memory.at<F32>(r.b.grad_logits),
                           weights_->router.at<U32>(),
                           r.b.memory.at<F32>(r.b.grad_router_x),
                           status(r, kGradRouter),
                           r.batch.tokens,
                           d.experts,
                           d.model_dim,
                           0};
    if (r.batch.input) r.commands.dispatch(*router_, p, denseThreads(*router_, r.batch.tokens, d.model_dim));
    ExpertWeightGrad grad{};
    grad.grad_out = r.b.memory.at<F32>(r.b.grad_logits);
    grad.x = r.f.memory.at<F32>(r.f.x);
    grad.rows = d.experts;
    grad.cols = d.model_dim;
    grad.bias = uint32_t(r.g.router_bias / 4);
    grad.count = r.batch.tokens;
    grad.dense_page = weights_->sharedPage() + 1;
    weightGrad(r, *router_grad_, grad);
    if (hasSharedGate() && !form_.carry)
        recordSharedGate(r.commands, r.b, r.g, r.b.memory.at<F32>(r.b.grad_shared_logits), r.f.memory.at<F32>(r.f.x),
                         r.batch.tokens);
}

void BackwardPass::recordSharedGate(Commands& commands, const BackwardWorkspace& w, const LayerGradients& gradients,
                                    F32 grad_logits, F32 x, uint32_t tokens) const {
    SharedGateBackward p{grad_logits,
                         x,
                         pointerTo<F32>(gradients.shared_router),
                         w.memory.at<U32>(w.status + kWeights * 8),
                         tokens,
                         weights_->description.model_dim};
    commands.dispatch(*shared_gate_, p, p.model_dim);
}

}  // namespace v1
}  // namespace vkmoe
