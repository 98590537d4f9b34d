// Which forms of each kernel exist, and which shapes test their edges.
#include "engine/cases/makers.h"
#include "engine/moe/expert_forms.h"
#include "shaders/math_probe.h"

namespace vkmoe {
inline namespace v1 {
namespace {

std::vector<Constants> storedFormats(const std::vector<uint32_t>& operand_bits) {
    std::vector<Constants> all;
    for (uint32_t format : {kF32, kF16, kBf16})
        for (uint32_t bits : operand_bits) all.push_back({.weight_format = format, .operand_bits = bits});
    return all;
}

std::vector<Constants> packForms() {
    std::vector<Constants> all = storedFormats({0});
    for (uint32_t format : {kF16, kBf16}) all.push_back({.weight_format = format, .widen = 1});
    for (uint32_t nibbles : {kAdjacent, kHalves})
        for (uint32_t widen : {0u, 1u}) all.push_back({.weight_format = kMxfp4, .widen = widen, .nibbles = nibbles});
    return all;
}

// expert_up of a layer that is trained; the other constants as in `form`.
void addKeepingForms(std::vector<Constants>& all, Constants form) {
    form.keep_totals = 1;
    for (uint32_t activation : {kRelu, kSiluGlu})
        for (auto [format, fused] : {std::pair{kF32, 0u}, {kBf16, 1u}}) {
            form.weight_format = format;
            form.operand_bits = operandBits(format, fused != 0);
            form.fused = fused;
            form.activation = activation;
            all.push_back(form);
        }
}

// Every format in every precision, which the sums depend on; and with two of them every activation, bias and the dense
// form, which they do not depend on. (Drivers take seconds for each form: all products of these would be minutes.)
std::vector<Constants> expertForms(bool up) {
    std::vector<Constants> all;
    auto add = [&](uint32_t format, uint32_t fused, uint32_t activation, uint32_t bias, uint32_t dense) {
        all.push_back({.weight_format = format,
                       .operand_bits = up ? operandBits(format, fused != 0) : 0u,
                       .fused = fused,
                       .activation = activation,
                       .bias = bias,
                       .dense = dense});
    };
    const uint32_t activation = up ? kSiluGlu : kRelu, biases = up ? kBias | kGateBias : kBias;
    for (uint32_t format : {kF32, kF16, kBf16, kMxfp4})
        for (uint32_t fused : {0u, 1u}) {
            if (fused && format == kF32) continue;
            add(format, fused, activation, 0, 0);
            add(format, fused, activation, biases, 1);
        }
    for (auto [format, fused] : {std::pair{kF32, 0u}, {kBf16, 1u}}) {
        add(format, fused, activation, biases, 0);
        add(format, fused, activation, 0, 1);
        if (!up) continue;
        for (uint32_t bias : {kBias, kGateBias}) add(format, fused, kSiluGlu, bias, 0);
        for (uint32_t gated : {kGeluGlu, kClampedSwiglu}) add(format, fused, gated, biases, 0);
        for (uint32_t bias : {0u, kBias}) add(format, fused, kRelu, bias, bias != 0);
    }
    if (up) addKeepingForms(all, {});
    return all;
}

// The code of the plain forms but for the sums: each format and precision in every height, with and without biases.
std::vector<Constants> lanesForms(bool up, uint32_t lanes) {
    std::vector<Constants> all;
    auto add = [&](Constants c, uint32_t activation, uint32_t bias, uint32_t dense, uint32_t rows) {
        c.operand_bits = up ? operandBits(c.weight_format, c.fused != 0) : 0;
        c.activation = up ? activation : kRelu;
        c.bias = bias;
        c.dense = dense;
        c.lanes = lanes;
        c.tile_rows = rows;
        all.push_back(c);
    };
    if (lanes == 0) return all;
    for (uint32_t format : {kF32, kF16, kBf16, kMxfp4})
        for (uint32_t fused : {0u, 1u}) {
            if (fused && format == kF32) continue;
            Constants c{.weight_format = format, .fused = fused};
            add(c, kSiluGlu, 0, 0, kLanesRows);
            add(c, kSiluGlu, up ? kBias | kGateBias : kBias, 0, 4);
            add(c, kRelu, kBias, 1, 1);
        }
    for (uint32_t activation : {kGeluGlu, kClampedSwiglu})
        if (up) add({}, activation, kBias | kGateBias, 0, 4);
    if (up) addKeepingForms(all, {.lanes = lanes, .tile_rows = 4});
    return all;
}

std::vector<Constants> routeForms() {
    std::vector<Constants> all;
    for (uint32_t lanes : {8u, 64u}) {
        all.push_back({.score = kSoftmaxSelected, .lanes = lanes});
        all.push_back({.score = kSoftmaxSelected, .selection_bias = 1, .probabilities = 1, .lanes = lanes});
        all.push_back({.score = kSoftmax, .lanes = lanes});
        all.push_back({.score = kSoftmax, .renormalize = 1, .probabilities = 1, .lanes = lanes});
        all.push_back({.score = kSoftmax, .renormalize = 1, .selection_bias = 1, .scaled = 1, .lanes = lanes});
        all.push_back({.score = kSoftmax, .scaled = 1, .lanes = lanes, .group_score = kGroupMax});
        all.push_back({.score = kSigmoid, .probabilities = 1, .lanes = lanes});
        all.push_back({.score = kSigmoid,
                       .renormalize = 1,
                       .selection_bias = 1,
                       .scaled = 1,
                       .lanes = lanes,
                       .group_score = kGroupSumOfTop2});
        all.push_back(
            {.score = kSigmoid, .renormalize = 1, .lanes = lanes, .group_score = kGroupSumOfTop2, .capacity = 1});
    }
    return all;
}

std::vector<Constants> capacityForms() {
    std::vector<Constants> all;
    for (uint32_t score : {kSoftmax, kSoftmaxSelected})
        for (uint32_t renormalize : {0u, 1u})
            all.push_back({.score = score, .renormalize = renormalize, .scaled = renormalize});
    return all;
}

std::vector<Constants> combineForms() {
    std::vector<Constants> all{{.shared = kSharedNone}};
    for (uint32_t shared : {kSharedFirst, kSharedLast})
        for (uint32_t gate : {0u, 1u}) all.push_back({.shared = shared, .shared_gate = gate});
    return all;
}

}  // namespace

std::vector<Constants> productionConstants(const KernelCode& code, const DeviceLimits& limits) {
    const Kernels& k = kernels();
    for (const Maker& maker : makers())
        if (maker.code == &code && maker.forms) return maker.forms(limits);
    if (&code == &k.apply_rule) return storedFormats({0, 13, 16, 24});
    if (&code == &k.pack_panels) return packForms();
    if (&code == &k.router_logits) return {{.bias = 0}, {.bias = 1}};
    if (&code == &k.route_topk) return routeForms();
    if (&code == &k.expert_up || &code == &k.expert_up_gemv) return expertForms(true);
    if (&code == &k.expert_down || &code == &k.expert_down_gemv) return expertForms(false);
    if (&code == &k.expert_up_lanes || &code == &k.expert_down_lanes)
        return lanesForms(&code == &k.expert_up_lanes, subgroupLanes(limits));
    if (&code == &k.combine) return combineForms();
    if (&code == &k.assign_capacity) return capacityForms();
    if (&code == &k.peak_multiply_add) return {{.fused = 0}};  // fused, its rounding is the device's own affair
    return {{}};
}

bool findsPages(const KernelCode& code) {
    const Kernels& k = kernels();
    for (const KernelCode* one :
         {&k.expert_up, &k.expert_up_gemv, &k.expert_up_lanes, &k.expert_down, &k.expert_down_gemv,
          &k.expert_down_lanes, &k.expert_down_backward, &k.expert_up_backward, &k.expert_weight_grad,
          &k.expert_down_backward_lanes, &k.expert_up_backward_lanes, &k.expert_weight_grad_lanes})
        if (&code == one) return true;
    return false;
}

std::vector<Shape> edgeShapes(const KernelCode& code) {
    const Kernels& k = kernels();
    if (&code == &k.math_probe) {
        std::vector<Shape> all;
        for (uint32_t function = 0; function < kProbeCount; ++function)
            all.push_back({.tokens = 1000, .seed = function});
        return all;
    }
    std::vector<Shape> all{
        {.tokens = 0},
        {.tokens = 1, .experts = 1, .top_k = 1, .model_dim = 1, .hidden_dim = 1, .seed = 2},
        {.tokens = 1, .experts = 3, .top_k = 3, .model_dim = 31, .hidden_dim = 15, .seed = 3},
        {.tokens = 31, .experts = 2, .top_k = 1, .model_dim = 32, .hidden_dim = 16, .seed = 4},
        {.tokens = 32,
         .experts = 4,
         .top_k = 2,
         .model_dim = 33,
         .hidden_dim = 17,
         .skew = Skew::one_takes_all,
         .seed = 5},
        {.tokens = 33,
         .experts = 5,
         .top_k = 3,
         .model_dim = 63,
         .hidden_dim = 64,
         .skew = Skew::some_empty,
         .seed = 6},
        {.tokens = 67, .experts = 17, .top_k = 2, .model_dim = 65, .hidden_dim = 127, .seed = 7},
        {.tokens = 7, .experts = 40, .top_k = 34, .model_dim = 129, .hidden_dim = 67, .seed = 8},
        {.tokens = 300,
         .experts = 70,
         .top_k = 1,
         .model_dim = 8,
         .hidden_dim = 5,
         .skew = Skew::one_takes_all,
         .seed = 9},
    };
    if (&code == &k.gate_backward || &code == &k.squared_error ||
        &code == &k.shared_gate)  // more than a block a thread
        all.push_back({.tokens = 2, .experts = 3, .top_k = 2, .model_dim = 4133, .hidden_dim = 1, .seed = 10});
    if (&code == &k.route_topk_backward || &code == &k.router_loss_backward)  // all of the shared memory
        all.push_back({.tokens = 9, .experts = 128, .top_k = 8, .model_dim = 1, .hidden_dim = 1, .seed = 12});
    if (tileOutputs(code) == kLanesOutputs)  // more than a workgroup's outputs
        all.push_back({.tokens = 9, .experts = 3, .top_k = 2, .model_dim = 270, .hidden_dim = 300, .seed = 15});
    if (findsPages(code)) {
        all.push_back(
            {.tokens = 37, .experts = 5, .top_k = 2, .model_dim = 33, .hidden_dim = 20, .seed = 13, .here = Here::odd});
        all.push_back({.tokens = 6, .experts = 6, .top_k = 3, .model_dim = 7, .seed = 14, .here = Here::even});
    }
    return all;
}

}  // namespace v1
}  // namespace vkmoe
