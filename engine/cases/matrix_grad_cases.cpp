// Cases of the gradients of the grouped GEMMs.
#include <iterator>

#include "engine/cases/expert_pages.h"
#include "engine/moe/expert_forms.h"
#include "engine/moe/page_layout.h"

namespace vkmoe {
inline namespace v1 {
namespace {

// ---- gradients of activations ---------------------------------------------------------------------------------------

// What the gradients of a GEMM's rows have in common: `cols` outputs, sums over `terms` of each of `matrices`.
template <class Params>
void finishRows(Case& test, const KernelCode& code, const Constants& c, const ExpertRegions& regions, Params& p,
                const Shape& shape, uint32_t cols, uint32_t terms, double matrices) {
    VKMOE_POINT(Params, pages, regions.table);
    VKMOE_POINT(Params, offsets, regions.offsets);
    VKMOE_POINT(Params, tiles, regions.tiles);
    VKMOE_POINT(Params, tile_count, regions.tile_count);
    VKMOE_POINT(Params, status, test.output("status", Words(2)));
    p.model_dim = shape.model_dim;
    p.hidden_dim = shape.hidden_dim;
    p.rows = regions.rows;
    p.dense_page = shape.experts - 1;
    test.setParams(p);
    test.threads = uint64_t{regions.groups_per_column} * ceilDiv(cols, tileOutputs(code)) * kWorkgroup;
    double pages = c.dense != 0 ? 1 : std::min(shape.experts, regions.rows);
    test.flops = 2.0 * regions.rows * cols * terms * matrices;
    test.bytes = pages * matrices * cols * terms * (c.weight_format == kF32 ? 4 : 2) +
                 4.0 * regions.rows * (matrices * terms + cols);
}

Case expertDownBackward(const KernelCode& code, const Constants& c, const Shape& shape, Values& values) {
    Case test(code, c, shape.label());
    ExpertDownBackward p{};
    const uint32_t D = shape.model_dim, F = shape.hidden_dim;
    auto page = [&] {
        Words words(4, 0x7fc00000u);
        p.down_weight = uint32_t(append(words, packed(D, F, c.weight_format, values)));
        return words;
    };
    ExpertRegions regions = addExperts(test, c, shape, values, page);
    uint32_t bits = operandBits(c.weight_format, c.fused != 0);
    VKMOE_POINT(ExpertDownBackward, grad_y, test.input("grad_y", values.operands(size_t{regions.rows} * D, bits)));
    VKMOE_POINT(ExpertDownBackward, grad_hidden, test.output("grad_hidden", size_t{regions.rows} * F));
    finishRows(test, code, c, regions, p, shape, F, D, 1);
    return test;
}

Case expertUpBackward(const KernelCode& code, const Constants& c, const Shape& shape, Values& values) {
    Case test(code, c, shape.label());
    ExpertUpBackward p{};
    const uint32_t D = shape.model_dim, F = shape.hidden_dim;
    const bool gated = c.activation != kRelu;
    auto page = [&] {
        Words words;
        if (gated) p.gate_weight = uint32_t(append(words, packed(F, D, c.weight_format, values)));
        p.up_weight = uint32_t(append(words, packed(F, D, c.weight_format, values)));
        return words;
    };
    ExpertRegions regions = addExperts(test, c, shape, values, page);
    uint32_t bits = operandBits(c.weight_format, c.fused != 0);
    size_t count = size_t{regions.rows} * F;
    VKMOE_POINT(ExpertUpBackward, grad_gate, test.input("grad_gate", values.operands(gated ? count : 1, bits)));
    VKMOE_POINT(ExpertUpBackward, grad_up, test.input("grad_up", values.operands(count, bits)));
    VKMOE_POINT(ExpertUpBackward, grad_x, test.output("grad_x", size_t{regions.rows} * D));
    finishRows(test, code, c, regions, p, shape, D, F, gated ? 2 : 1);
    return test;
}

Case routerLogitsBackward(const KernelCode& code, const Constants& c, const Shape& shape, Values& values) {
    Case test(code, c, shape.label());
    const uint32_t T = shape.tokens, E = shape.experts, D = shape.model_dim;
    VKMOE_POINT(RouterLogitsBackward, grad_logits, test.input("grad_logits", values.operands(size_t{T} * E)));
    VKMOE_POINT(RouterLogitsBackward, weight, test.input("weight", packed(E, D, kF32, values)));
    VKMOE_POINT(RouterLogitsBackward, grad_x, test.output("grad_x", size_t{T} * D));
    VKMOE_POINT(RouterLogitsBackward, status, test.output("status", Words(2)));
    test.setParams(RouterLogitsBackward{.tokens = T, .experts = E, .model_dim = D});
    test.threads = uint64_t{ceilDiv(T, kTileRows)} * ceilDiv(D, tileOutputs(code)) * kWorkgroup;
    test.flops = 2.0 * T * E * D;
    test.bytes = 4.0 * (double(T) * E + double(E) * D + double(T) * D);
    return test;
}

// ---- gradients of weights -------------------------------------------------------------------------------------------

// A page of gradients for each expert, and the table of them.
size_t gradPages(Case& test, const Constants& c, const std::string& name, uint32_t words, const Shape& shape,
                 Values& values) {
    size_t table = test.input(name + " table", Words(2 * size_t{shape.experts}));
    Words first = biasWords(words, values);
    for (uint32_t e = 0; e < shape.experts; ++e) {
        size_t page = test.output(name, e == 0 || shape.same_pages ? first : biasWords(words, values));
        if (c.dense != 0 || shape.isHere(e)) test.pointFrom(table, 8 * size_t{e}, page);
    }
    return table;
}

// Slots of earlier chunks.
Words carriedWords(uint32_t count, Values& values) {
    constexpr uint32_t kCounts[] = {0, 1, 31, 32, 33, 63, 64, 1000};
    Words carried(count);
    for (auto& word : carried) word = kCounts[values.below(uint32_t(std::size(kCounts)))];
    return carried;
}

// Rows are tokens of the shape in the dense form, else slots; x is found through token_of as for up, or not as for
// down.
Case expertWeightGrad(const KernelCode& code, const Constants& c, const Shape& shape, Values& values) {
    Case test(code, c, shape.label());
    ExpertWeightGrad p{};
    Routing routing = makeRouting(shape, values);
    const uint32_t slots = c.dense != 0 ? shape.tokens : shape.tokens * shape.top_k;
    p.rows = c.gather != 0 ? shape.hidden_dim : shape.model_dim;
    p.cols = c.gather != 0 ? shape.model_dim : shape.hidden_dim;
    p.weight = 4;
    p.bias = p.weight + uint32_t(packedWords(p.rows, p.cols, WeightFormat::f32));
    p.experts = shape.experts;
    p.count = slots;
    p.dense_page = shape.experts - 1;
    p.last = shape.seed % 2;
    const uint32_t words = p.bias + p.rows, carried = c.carry != 0 ? words : 1;
    size_t inputs = c.gather != 0 ? shape.tokens : slots;
    uint32_t bits = c.fused != 0 ? 16 : 24;
    VKMOE_POINT(ExpertWeightGrad, grad_out, test.input("grad_out", values.operands(size_t{slots} * p.rows, bits)));
    VKMOE_POINT(ExpertWeightGrad, x, test.input("x", values.floats(inputs * p.cols)));
    VKMOE_POINT(ExpertWeightGrad, pages, gradPages(test, c, "grad", words, shape, values));
    VKMOE_POINT(ExpertWeightGrad, totals, gradPages(test, c, "totals", carried, shape, values));
    VKMOE_POINT(ExpertWeightGrad, partials, gradPages(test, c, "partials", carried, shape, values));
    VKMOE_POINT(ExpertWeightGrad, offsets, test.input("offsets", routing.offsets));
    VKMOE_POINT(ExpertWeightGrad, token_of, test.input("token_of", routing.token_of));
    VKMOE_POINT(ExpertWeightGrad, carried, test.input("carried", carriedWords(shape.experts + 1, values)));
    VKMOE_POINT(ExpertWeightGrad, status, test.output("status", Words(2)));
    test.setParams(p);
    uint32_t experts = c.dense != 0 ? 1 : shape.experts;
    test.threads = uint64_t{experts} * ceilDiv(p.cols, tileOutputs(code)) * ceilDiv(p.rows, kTileRows) * kWorkgroup;
    test.flops = 2.0 * slots * p.rows * p.cols;
    const double matrices = c.fresh != 0 ? 4.0 * experts : 8.0 * std::min(experts, slots);
    test.bytes = 4.0 * slots * (double(p.rows) + p.cols) + matrices * p.rows * p.cols;
    return test;
}

// ---- forms ----------------------------------------------------------------------------------------------------------

constexpr Constants kFormats[] = {
    {.weight_format = kF32}, {.weight_format = kBf16}, {.weight_format = kBf16, .fused = 1}};

std::vector<Constants> downForms(const DeviceLimits&) {
    std::vector<Constants> all;
    for (Constants c : kFormats)
        for (c.dense = 0; c.dense < 2; ++c.dense) all.push_back(c);
    return all;
}

// The dense form reads no other code than that of expert_down_backward: once a format.
std::vector<Constants> upForms(const DeviceLimits&) {
    std::vector<Constants> all;
    for (Constants c : kFormats)
        for (uint32_t activation : {kSiluGlu, kRelu}) {
            c.activation = activation;
            c.dense = (c.weight_format == kF32) != (activation == kSiluGlu) ? 1 : 0;
            all.push_back(c);
        }
    return all;
}

// x by token, by slot and dense; whole micro-batches and chunks; mixed precision; gradients that were there and fresh
// ones.
std::vector<Constants> weightForms(const DeviceLimits&) {
    return {
        {.operand_bits = 24, .gather = 1},
        {.operand_bits = 24, .gather = 1, .fresh = 1},
        {.operand_bits = 24, .bias = kBias, .gather = 1, .carry = 1},
        {.operand_bits = 24, .bias = kBias},
        {.operand_bits = 24, .carry = 1, .fresh = 1},
        {.operand_bits = 24, .bias = kBias, .dense = 1},
        {.operand_bits = 24, .dense = 1, .carry = 1},
        {.operand_bits = 24, .dense = 1, .carry = 1, .fresh = 1},
        {.operand_bits = 8, .fused = 1, .bias = kBias, .gather = 1, .carry = 1, .fresh = 1},
        {.operand_bits = 8, .fused = 1},
        {.operand_bits = 8, .fused = 1, .bias = kBias, .fresh = 1},
        {.operand_bits = 8, .fused = 1, .bias = kBias, .dense = 1, .fresh = 1},
    };
}

// The same for software drivers in every height of gradient_forms.cpp; of weights' gradients sums are carried in one.
template <std::vector<Constants> (*kForms)(const DeviceLimits&)>
std::vector<Constants> inLanes(const DeviceLimits& limits) {
    std::vector<Constants> all;
    if (subgroupLanes(limits) == 0) return all;
    const bool weights = kForms == weightForms;
    for (Constants c : kForms(limits))
        for (uint32_t height : {weights ? 8u : 4u, weights ? kTileRows : kLanesRows}) {
            if (c.carry != 0 && height == kTileRows) continue;
            c.lanes = subgroupLanes(limits);
            c.tile_rows = height;
            all.push_back(c);
        }
    return all;
}

std::vector<Constants> routerForms(const DeviceLimits&) { return {{}}; }

}  // namespace

std::vector<Maker> matrixGradMakers() {
    const Kernels& k = kernels();
    return {
        {&k.expert_down_backward, expertDownBackward, downForms},
        {&k.expert_up_backward, expertUpBackward, upForms},
        {&k.router_logits_backward, routerLogitsBackward},
        {&k.expert_weight_grad, expertWeightGrad, weightForms},
        {&k.expert_down_backward_lanes, expertDownBackward, inLanes<downForms>},
        {&k.expert_up_backward_lanes, expertUpBackward, inLanes<upForms>},
        {&k.router_logits_backward_lanes, routerLogitsBackward, inLanes<routerForms>},
        {&k.expert_weight_grad_lanes, expertWeightGrad, inLanes<weightForms>},
    };
}

}  // namespace v1
}  // namespace vkmoe
