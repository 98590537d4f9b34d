// Cases of the gradients of routing, activation and combination.
#include <cstddef>

#include "engine/cases/makers.h"
#include "shaders/exact_math.h"

namespace vkmoe {
inline namespace v1 {
namespace {

// Slots of a routing in which every third seed drops some assignments.
Words slotsOf(const Shape& shape, Values& values) {
    Words slots = makeRouting(shape, values).slot_of;
    for (auto& slot : slots)
        if (shape.seed % 3 == 0 && values.below(3) == 0) slot = kAbsent;
    return slots;
}

// ---- combination ----------------------------------------------------------------------------------------------------

Case combineBackward(const KernelCode& code, const Constants& c, const Shape& shape, Values& values) {
    Case test(code, c, shape.label());
    Words slots = slotsOf(shape, values);
    size_t assignments = slots.size(), outputs = size_t{shape.tokens} * shape.model_dim;
    VKMOE_POINT(CombineBackward, grad_out, test.input("grad_out", values.floats(outputs)));
    VKMOE_POINT(CombineBackward, slot_of, test.input("slot_of", std::move(slots)));
    VKMOE_POINT(CombineBackward, gates, test.input("gates", values.floats(assignments)));
    VKMOE_POINT(CombineBackward, shared_gates, test.input("shared_gates", values.positive(shape.tokens)));
    VKMOE_POINT(CombineBackward, grad_y, test.output("grad_y", assignments * shape.model_dim));
    VKMOE_POINT(CombineBackward, grad_shared_y, test.output("grad_shared_y", outputs));
    VKMOE_POINT(CombineBackward, status, test.output("status", Words(2)));
    test.setParams(CombineBackward{.tokens = shape.tokens, .model_dim = shape.model_dim, .top_k = shape.top_k});
    test.threads = outputs;
    test.flops = double(assignments) * shape.model_dim;
    test.bytes = 4.0 * (double(outputs) * (c.shared != kSharedNone ? 2 : 1) + double(assignments) * shape.model_dim);
    return test;
}

Case gateBackward(const KernelCode& code, const Constants& c, const Shape& shape, Values& values) {
    Case test(code, c, shape.label());
    Words slots = slotsOf(shape, values);
    size_t assignments = slots.size(), outputs = size_t{shape.tokens} * shape.model_dim;
    Words shared_gates = values.positive(shape.tokens);
    for (auto& gate : shared_gates) gate = floatBitsToUint(exact_sigmoid(8 * uintBitsToFloat(gate) - 4));
    VKMOE_POINT(GateBackward, grad_out, test.input("grad_out", values.floats(outputs)));
    VKMOE_POINT(GateBackward, y, test.input("y", values.floats(assignments * shape.model_dim)));
    VKMOE_POINT(GateBackward, slot_of, test.input("slot_of", std::move(slots)));
    VKMOE_POINT(GateBackward, shared_y, test.input("shared_y", values.floats(outputs)));
    VKMOE_POINT(GateBackward, shared_gates, test.input("shared_gates", std::move(shared_gates)));
    VKMOE_POINT(GateBackward, grad_gates, test.output("grad_gates", assignments));
    VKMOE_POINT(GateBackward, grad_shared_logits, test.output("grad_shared_logits", shape.tokens));
    VKMOE_POINT(GateBackward, status, test.output("status", Words(2)));
    test.setParams(GateBackward{.tokens = shape.tokens, .model_dim = shape.model_dim, .top_k = shape.top_k});
    const double gates = double(shape.top_k) + c.shared_gate;
    test.threads = uint64_t{shape.tokens} * (shape.top_k + c.shared_gate) * kWorkgroup;
    test.flops = 2.0 * double(outputs) * gates;
    test.bytes = 4.0 * double(outputs) * (gates + 1);
    return test;
}

Case dispatchBackward(const KernelCode& code, const Constants& c, const Shape& shape, Values& values) {
    Case test(code, c, shape.label());
    Words slots = slotsOf(shape, values);
    size_t assignments = slots.size(), outputs = size_t{shape.tokens} * shape.model_dim;
    VKMOE_POINT(DispatchBackward, grad_x, test.input("grad_x", values.floats(assignments * shape.model_dim)));
    VKMOE_POINT(DispatchBackward, slot_of, test.input("slot_of", std::move(slots)));
    VKMOE_POINT(DispatchBackward, grad_shared_x, test.input("grad_shared_x", values.floats(outputs)));
    VKMOE_POINT(DispatchBackward, grad_shared_logits, test.input("grad_shared_logits", values.floats(shape.tokens)));
    VKMOE_POINT(DispatchBackward, shared_router, test.input("shared_router", values.operands(shape.model_dim)));
    VKMOE_POINT(DispatchBackward, grad_router_x, test.input("grad_router_x", values.floats(outputs)));
    VKMOE_POINT(DispatchBackward, grad_in, test.output("grad_in", outputs));
    VKMOE_POINT(DispatchBackward, status, test.output("status", Words(2)));
    test.setParams(DispatchBackward{.tokens = shape.tokens, .model_dim = shape.model_dim, .top_k = shape.top_k});
    test.threads = outputs;
    const double shared = c.shared == kSharedNone ? 0 : 1;
    test.flops = double(assignments) * shape.model_dim + double(outputs) * (1 + shared + 2 * c.shared_gate);
    test.bytes = 4.0 * (double(assignments) * shape.model_dim + double(outputs) * (2 + shared));
    return test;
}

Case sharedGateBackward(const KernelCode& code, const Constants& c, const Shape& shape, Values& values) {
    Case test(code, c, shape.label());
    size_t inputs = size_t{shape.tokens} * shape.model_dim;
    VKMOE_POINT(SharedGateBackward, grad_shared_logits, test.input("grad_shared_logits", values.floats(shape.tokens)));
    VKMOE_POINT(SharedGateBackward, x, test.input("x", values.operands(inputs)));
    VKMOE_POINT(SharedGateBackward, grad, test.output("grad", values.floats(shape.model_dim)));
    VKMOE_POINT(SharedGateBackward, status, test.output("status", Words(2)));
    test.setParams(SharedGateBackward{.tokens = shape.tokens, .model_dim = shape.model_dim});
    test.threads = shape.model_dim;
    test.flops = 2.0 * double(inputs);
    test.bytes = 4.0 * (double(inputs) + shape.tokens + 2.0 * shape.model_dim);
    return test;
}

std::vector<Constants> combineBackwardForms(const DeviceLimits&) {
    std::vector<Constants> all;
    for (uint32_t bits : {24u, 16u}) {
        all.push_back({.operand_bits = bits, .shared = kSharedNone});
        for (uint32_t gate : {0u, 1u})
            all.push_back({.operand_bits = bits, .shared = kSharedFirst, .shared_gate = gate});
    }
    return all;
}

std::vector<Constants> gateForms(const DeviceLimits&) { return {{.shared_gate = 0}, {.shared_gate = 1}}; }

std::vector<Constants> dispatchForms(const DeviceLimits&) {
    return {{.shared = kSharedNone}, {.shared = kSharedFirst}, {.shared = kSharedFirst, .shared_gate = 1}};
}

// ---- activation -----------------------------------------------------------------------------------------------------

Case activationBackward(const KernelCode& code, const Constants& c, const Shape& shape, Values& values) {
    Case test(code, c, shape.label());
    size_t count = size_t{shape.tokens} * shape.hidden_dim;
    Words gate = values.floats(count), up = values.floats(count);
    for (size_t i = 0; i < count; i += 3) gate[i] = floatBitsToUint(uintBitsToFloat(gate[i]) * 12);  // the tails
    VKMOE_POINT(ActivationBackward, gate_total, test.input("gate_total", std::move(gate)));
    VKMOE_POINT(ActivationBackward, up_total, test.input("up_total", std::move(up)));
    VKMOE_POINT(ActivationBackward, grad_hidden, test.input("grad_hidden", values.floats(count)));
    VKMOE_POINT(ActivationBackward, grad_gate, test.output("grad_gate", count));
    VKMOE_POINT(ActivationBackward, grad_up, test.output("grad_up", count));
    VKMOE_POINT(ActivationBackward, status, test.output("status", Words(2)));
    test.setParams(ActivationBackward{.count = uint32_t(count), .swiglu_limit = 0.75f, .swiglu_alpha = 1.702f});
    test.threads = count;
    test.bytes = (c.activation != kRelu ? 20.0 : 12.0) * double(count);
    return test;
}

std::vector<Constants> activationForms(const DeviceLimits&) {
    std::vector<Constants> all;
    for (uint32_t bits : {24u, 16u})
        for (uint32_t activation : {kRelu, kSiluGlu, kGeluGlu, kClampedSwiglu})
            all.push_back({.operand_bits = bits, .activation = activation});
    return all;
}

// ---- routing --------------------------------------------------------------------------------------------------------

// Every third seed drops some assignments, every fourth lists some experts twice.
Words selectedOf(const Shape& shape, Values& values) {
    Words selected = makeRouting(shape, values).selected;
    for (size_t a = 0; a < selected.size(); ++a) {
        if (shape.seed % 3 == 0 && values.below(4) == 0) selected[a] = shape.experts + values.below(2) * 1000;
        if (shape.seed % 4 == 0 && a % shape.top_k != 0 && values.below(4) == 0) selected[a] = selected[a - 1];
    }
    return selected;
}

// Every other seed's sigmoids are tiny, and gates scaled accordingly.
bool farApart(const Shape& shape) { return shape.seed % 2 == 0; }

Words routerLogits(const Shape& shape, Values& values) {
    Words logits = values.floats(size_t{shape.tokens} * shape.experts);
    if (farApart(shape))
        for (auto& word : logits) word = floatBitsToUint(uintBitsToFloat(word) - 32.0f);
    return logits;
}

Case routeTopkBackward(const KernelCode& code, const Constants& c, const Shape& shape, Values& values) {
    Case test(code, c, shape.label());
    size_t logits = size_t{shape.tokens} * shape.experts, chosen = size_t{shape.tokens} * shape.top_k;
    VKMOE_POINT(RouteTopkBackward, logits, test.input("logits", routerLogits(shape, values)));
    VKMOE_POINT(RouteTopkBackward, selected, test.input("selected", selectedOf(shape, values)));
    VKMOE_POINT(RouteTopkBackward, grad_gates, test.input("grad_gates", values.floats(chosen)));
    VKMOE_POINT(RouteTopkBackward, grad_logits, test.output("grad_logits", logits));
    VKMOE_POINT(RouteTopkBackward, status, test.output("status", Words(2)));
    test.setParams(RouteTopkBackward{.tokens = shape.tokens,
                                     .experts = shape.experts,
                                     .top_k = shape.top_k,
                                     .renormalize_epsilon = shape.seed % 2 == 0 ? 1e-20f : 0.25f,
                                     .routed_scale = farApart(shape) ? 1e14f : 2.5f});
    test.threads = uint64_t{shape.tokens} * c.lanes;
    test.bytes = 8.0 * double(logits + chosen);
    return test;
}

std::vector<Constants> routeBackwardForms(const DeviceLimits&) {
    std::vector<Constants> all;
    for (uint32_t lanes : {8u, 64u}) {
        all.push_back({.score = kSoftmaxSelected, .scaled = lanes == 8, .lanes = lanes});
        for (uint32_t score : {kSoftmax, kSigmoid})
            for (uint32_t renormalize : {0u, 1u})
                all.push_back({.score = score,
                               .renormalize = renormalize,
                               .scaled = (lanes == 8) == (renormalize == 0) ? 0u : 1u,
                               .lanes = lanes});
    }
    return all;
}

Case routerLossBackward(const KernelCode& code, const Constants& c, const Shape& shape, Values& values) {
    Case test(code, c, shape.label());
    size_t logits = size_t{shape.tokens} * shape.experts;
    Words counts(shape.experts);
    for (uint32_t expert : makeRouting(shape, values).selected) ++counts[expert];
    VKMOE_POINT(RouterLossBackward, logits, test.input("logits", values.floats(logits)));
    VKMOE_POINT(RouterLossBackward, counts, test.input("counts", std::move(counts)));
    VKMOE_POINT(RouterLossBackward, grad_logits, test.output("grad_logits", values.operands(logits)));
    VKMOE_POINT(RouterLossBackward, status, test.output("status", Words(2)));
    test.setParams(RouterLossBackward{.tokens = shape.tokens,
                                      .experts = shape.experts,
                                      .assignments = shape.tokens * shape.top_k,
                                      .balance_scale = shape.seed % 4 == 1 ? 0.0f : 0.3f,
                                      .z_scale = shape.seed % 4 == 2 ? 0.0f : 0.01f});
    test.threads = uint64_t{shape.tokens} * c.lanes;
    test.bytes = 12.0 * double(logits);
    return test;
}

std::vector<Constants> routerLossForms(const DeviceLimits&) { return {{.lanes = 8}, {.lanes = 64}}; }

Case countTokens(const KernelCode& code, const Constants& c, const Shape& shape, Values& values) {
    Case test(code, c, shape.label());
    Words counts(shape.experts);
    for (auto& count : counts) count = values.below(1000);
    VKMOE_POINT(CountTokens, offsets, test.input("offsets", makeRouting(shape, values).offsets));
    VKMOE_POINT(CountTokens, counts, test.output("counts", std::move(counts)));
    test.setParams(CountTokens{.experts = shape.experts});
    test.threads = shape.experts;
    test.bytes = 12.0 * shape.experts;
    return test;
}

// ---- loss -----------------------------------------------------------------------------------------------------------

Case squaredError(const KernelCode& code, const Constants& c, const Shape& shape, Values& values) {
    Case test(code, c, shape.label());
    size_t outputs = size_t{shape.tokens} * shape.model_dim;
    VKMOE_POINT(SquaredError, out_, test.input("out", values.floats(outputs)));
    VKMOE_POINT(SquaredError, target, test.input("target", values.floats(outputs)));
    VKMOE_POINT(SquaredError, grad_out, test.output("grad_out", outputs));
    VKMOE_POINT(SquaredError, losses, test.output("losses", shape.tokens));
    VKMOE_POINT(SquaredError, status, test.output("status", Words(2)));
    test.setParams(SquaredError{.tokens = shape.tokens, .model_dim = shape.model_dim});
    test.threads = uint64_t{shape.tokens} * kWorkgroup;
    test.flops = 4.0 * double(outputs);
    test.bytes = 12.0 * double(outputs);
    return test;
}

}  // namespace

std::vector<Maker> backwardMakers() {
    const Kernels& k = kernels();
    return {
        {&k.combine_backward, combineBackward, combineBackwardForms},
        {&k.gate_backward, gateBackward, gateForms},
        {&k.activation_backward, activationBackward, activationForms},
        {&k.route_topk_backward, routeTopkBackward, routeBackwardForms},
        {&k.router_loss_backward, routerLossBackward, routerLossForms},
        {&k.count_tokens, countTokens},
        {&k.dispatch_backward, dispatchBackward, dispatchForms},
        {&k.shared_gate_backward, sharedGateBackward},
        {&k.squared_error, squaredError},
    };
}

}  // namespace v1
}  // namespace vkmoe
