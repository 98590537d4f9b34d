// How a case of each kernel is cut from a scene.
#include <cstddef>

#include "engine/cases/expert_pages.h"
#include "engine/cases/makers.h"
#include "engine/moe/expert_forms.h"
#include "engine/moe/page_layout.h"
#include "shaders/math_probe.h"

namespace vkmoe {
inline namespace v1 {
namespace {

// ---- elementwise and packing ----------------------------------------------------------------------------------------

Case applyRule(const KernelCode& code, const Constants& c, const Shape& shape, Values& values) {
    Case test(code, c, shape.label());
    uint32_t count = shape.tokens * shape.model_dim;
    VKMOE_POINT(ApplyRule, source, test.input("source", values.stored(count, c.weight_format)));
    VKMOE_POINT(ApplyRule, target, test.output("target", count));
    VKMOE_POINT(ApplyRule, status, test.output("status", Words(2)));
    test.setParams(ApplyRule{.count = count});
    test.threads = count;
    test.bytes = 8.0 * count;
    return test;
}

// Every other seed takes every second row of a fused matrix.
Case packPanels(const KernelCode& code, const Constants& c, const Shape& shape, Values& values) {
    Case test(code, c, shape.label());
    uint32_t rows = shape.hidden_dim, cols = shape.model_dim, row_step = 1 + shape.seed % 2;
    uint64_t target = packedWords(rows, cols, WeightFormat(c.widen != 0 ? kF32 : c.weight_format));
    Stored source = storedMatrix(size_t{rows} * row_step, cols, c.weight_format, values);
    test.bytes = 4.0 * double(target + source.values.size() + source.scales.size());
    VKMOE_POINT(PackPanels, source, test.input("source", std::move(source.values)));
    VKMOE_POINT(PackPanels, scales, test.input("scales", std::move(source.scales)));
    VKMOE_POINT(PackPanels, target, test.output("target", target));
    VKMOE_POINT(PackPanels, status, test.output("status", Words(2)));
    test.setParams(PackPanels{.rows = rows, .cols = cols, .row_step = row_step});
    test.threads = target;
    return test;
}

// ---- routing --------------------------------------------------------------------------------------------------------

Case routerLogits(const KernelCode& code, const Constants& c, const Shape& shape, Values& values) {
    Case test(code, c, shape.label());
    VKMOE_POINT(RouterLogits, x, test.input("x", values.operands(size_t{shape.tokens} * shape.model_dim)));
    VKMOE_POINT(RouterLogits, weight, test.input("weight", packed(shape.experts, shape.model_dim, kF32, values)));
    VKMOE_POINT(RouterLogits, bias, test.input("bias", biasWords(shape.experts, values)));
    VKMOE_POINT(RouterLogits, logits, test.output("logits", size_t{shape.tokens} * shape.experts));
    VKMOE_POINT(RouterLogits, status, test.output("status", Words(2)));
    test.setParams(RouterLogits{.tokens = shape.tokens, .experts = shape.experts, .model_dim = shape.model_dim});
    test.threads = uint64_t{shape.tokens} * ceilDiv(shape.experts, kPanel) * kPanel;
    test.flops = 2.0 * shape.tokens * shape.experts * shape.model_dim;
    test.bytes = 4.0 * (double(shape.tokens) * shape.model_dim + double(shape.experts) * shape.model_dim);
    return test;
}

// Some number of equal groups.
uint32_t groupsOf(const Shape& shape) {
    for (uint32_t groups : {8u, 5u, 4u, 2u})
        if (shape.experts % groups == 0 && shape.experts / groups > 1) return groups;
    return 1;
}

Case routeTopk(const KernelCode& code, const Constants& c, const Shape& shape, Values& values) {
    Case test(code, c, shape.label());
    size_t logits = size_t{shape.tokens} * shape.experts, chosen = size_t{shape.tokens} * shape.top_k;
    VKMOE_POINT(RouteTopk, logits, test.input("logits", values.floats(logits)));
    VKMOE_POINT(RouteTopk, selection_bias, test.input("selection_bias", biasWords(shape.experts, values)));
    VKMOE_POINT(RouteTopk, selected, test.output("selected", chosen));
    VKMOE_POINT(RouteTopk, gates, test.output("gates", chosen));
    VKMOE_POINT(RouteTopk, probabilities, test.output("probabilities", logits));
    VKMOE_POINT(RouteTopk, keys, test.output("keys", logits));
    VKMOE_POINT(RouteTopk, scores, test.output("scores", logits));
    VKMOE_POINT(RouteTopk, status, test.output("status", Words(2)));
    RouteTopk p{};
    p.tokens = shape.tokens;
    p.experts = shape.experts;
    p.top_k = shape.top_k;
    p.groups = groupsOf(shape);
    p.groups_kept = std::max(p.groups / 2, ceilDiv(shape.top_k, shape.experts / p.groups));
    p.renormalize_epsilon = 1e-20f;
    p.routed_scale = 2.5f;
    test.setParams(p);
    test.threads = uint64_t{shape.tokens} * c.lanes;
    test.bytes = 4.0 * double(logits + 2 * chosen);
    return test;
}

Case assignCapacity(const KernelCode& code, const Constants& c, const Shape& shape, Values& values) {
    Case test(code, c, shape.label());
    size_t cells = size_t{shape.tokens} * shape.experts, chosen = size_t{shape.tokens} * shape.top_k;
    Words keys = values.floats(cells), taken(shape.experts);
    for (auto& key : keys) key = values.below(20) == 0 ? 0 : order_key(uintBitsToFloat(key));
    for (auto& count : taken) count = values.below(3);
    VKMOE_POINT(AssignCapacity, keys, test.input("keys", keys));
    VKMOE_POINT(AssignCapacity, scores, test.input("scores", values.positive(cells)));
    VKMOE_POINT(AssignCapacity, taken, test.output("taken", taken));
    VKMOE_POINT(AssignCapacity, selected, test.output("selected", chosen));
    VKMOE_POINT(AssignCapacity, gates, test.output("gates", chosen));
    VKMOE_POINT(AssignCapacity, status, test.output("status", Words(2)));
    AssignCapacity p{};
    p.first_token = shape.tokens / 5;
    p.tokens = shape.tokens - p.first_token;
    p.experts = shape.experts;
    p.top_k = shape.top_k;
    p.capacity = std::max(1u, shape.tokens * shape.top_k / shape.experts);
    p.routed_scale = 2.5f;
    test.setParams(p);
    test.threads = kWorkgroup;
    test.bytes = 4.0 * double(cells + 2 * chosen);
    return test;
}

Case addNoise(const KernelCode& code, const Constants& c, const Shape& shape, Values& values) {
    Case test(code, c, shape.label());
    uint32_t count = shape.tokens * shape.experts;
    VKMOE_POINT(AddNoise, logits, test.output("logits", values.floats(count)));
    VKMOE_POINT(AddNoise, status, test.output("status", Words(2)));
    test.setParams(AddNoise{
        .tokens = shape.tokens, .experts = shape.experts, .first_token = 7, .seed = shape.seed, .noise_std = 0.3f});
    test.threads = count;
    test.bytes = 8.0 * count;
    return test;
}

Case sharedGate(const KernelCode& code, const Constants& c, const Shape& shape, Values& values) {
    Case test(code, c, shape.label());
    VKMOE_POINT(SharedGate, x, test.input("x", values.operands(size_t{shape.tokens} * shape.model_dim)));
    VKMOE_POINT(SharedGate, weight, test.input("weight", values.operands(shape.model_dim)));
    VKMOE_POINT(SharedGate, gates, test.output("gates", shape.tokens));
    VKMOE_POINT(SharedGate, status, test.output("status", Words(2)));
    test.setParams(SharedGate{.tokens = shape.tokens, .model_dim = shape.model_dim});
    test.threads = uint64_t{shape.tokens} * kWorkgroup;
    test.flops = 2.0 * shape.tokens * shape.model_dim;
    test.bytes = 4.0 * (double(shape.tokens) + 1) * shape.model_dim;
    return test;
}

// Some assignments go to no expert.
void dropSome(Routing& routing, const Shape& shape, Values& values) {
    for (auto& expert : routing.selected)
        if (values.below(4) == 0) expert = shape.experts + values.below(2) * 1000;
    routing.offsets.assign(shape.experts + 1, 0);
    for (uint32_t expert : routing.selected)
        if (expert < shape.experts) ++routing.offsets[expert + 1];
    for (uint32_t e = 0; e < shape.experts; ++e) routing.offsets[e + 1] += routing.offsets[e];
}

Case binTokens(const KernelCode& code, const Constants& c, const Shape& shape, Values& values) {
    Case test(code, c, shape.label());
    Routing routing = makeRouting(shape, values);
    uint32_t assignments = shape.tokens * shape.top_k, chunks = ceilDiv(assignments, kBinChunk);
    Words counts(size_t{chunks} * shape.experts);
    BinTokens p{};
    p.assignments = assignments;
    p.experts = shape.experts;
    p.top_k = shape.top_k;
    p.chunks = chunks;
    p.up_columns = ceilDiv(shape.hidden_dim, kPanel * kTilePanels);
    p.down_columns = ceilDiv(shape.model_dim, kPanel * kTilePanels);
    std::string step = code.name;
    if (shape.seed % 3 == 0) dropSome(routing, shape, values);
    if (step != "bin_count")
        for (uint32_t a = 0; a < assignments; ++a)
            if (routing.selected[a] < shape.experts)
                ++counts[size_t{a / kBinChunk} * shape.experts + routing.selected[a]];
    if (step == "bin_tokens") {  // counts are first slots by now
        Words next(routing.offsets.begin(), routing.offsets.end() - 1);
        for (auto& cell : counts) {
            uint32_t& slot = next[size_t(&cell - counts.data()) % shape.experts];
            slot += std::exchange(cell, slot);
        }
    }
    VKMOE_POINT(BinTokens, selected, test.input("selected", routing.selected));
    VKMOE_POINT(BinTokens, counts, test.output("counts", counts));
    VKMOE_POINT(BinTokens, offsets, test.output("offsets", shape.experts + 1));
    VKMOE_POINT(BinTokens, token_of, test.output("token_of", assignments));
    VKMOE_POINT(BinTokens, slot_of, test.output("slot_of", assignments));
    VKMOE_POINT(BinTokens, tiles, test.output("tiles", 2 * size_t{assignments / kTileRows + shape.experts}));
    VKMOE_POINT(BinTokens, tile_count, test.output("tile_count", 1));
    VKMOE_POINT(BinTokens, up_groups, test.output("up_groups", 3));
    VKMOE_POINT(BinTokens, down_groups, test.output("down_groups", 3));
    test.setParams(p);
    test.threads = step == "bin_offsets" ? kWorkgroup : assignments;
    test.bytes = 12.0 * assignments;
    (void)c;
    return test;
}

// ---- experts --------------------------------------------------------------------------------------------------------

uint64_t expertThreads(const KernelCode& code, const ExpertRegions& regions, uint32_t outputs) {
    std::string name = code.name;
    if (name.ends_with("_gemv")) return uint64_t{regions.rows} * ceilDiv(outputs, kPanel) * kWorkgroup;
    return uint64_t{regions.groups_per_column} * ceilDiv(outputs, tileOutputs(code)) * kWorkgroup;
}

double weightBytes(const Constants& c, const Shape& shape, double matrices) {
    double experts = c.dense != 0 ? 1 : std::min<double>(shape.experts, double(shape.tokens) * shape.top_k);
    double element = c.weight_format == kF32 ? 4 : c.weight_format == kMxfp4 ? 17.0 / 32 : 2;
    return experts * matrices * shape.model_dim * shape.hidden_dim * element;
}

Case expertUp(const KernelCode& code, const Constants& c, const Shape& shape, Values& values) {
    Case test(code, c, shape.label());
    ExpertUp p{};
    uint32_t D = shape.model_dim, F = shape.hidden_dim;
    auto page = [&] {
        Words words;
        if (c.activation != kRelu) p.gate_weight = uint32_t(append(words, packed(F, D, c.weight_format, values)));
        p.up_weight = uint32_t(append(words, packed(F, D, c.weight_format, values)));
        if ((c.bias & kGateBias) != 0) p.gate_bias = uint32_t(append(words, biasWords(F, values)));
        if ((c.bias & kBias) != 0) p.up_bias = uint32_t(append(words, biasWords(F, values)));
        return words;
    };
    ExpertRegions regions = addExperts(test, c, shape, values, page);
    uint32_t x_bits = operandBits(c.weight_format, c.fused != 0);
    VKMOE_POINT(ExpertUp, x, test.input("x", values.operands(size_t{shape.tokens} * D, x_bits)));
    VKMOE_POINT(ExpertUp, pages, regions.table);
    VKMOE_POINT(ExpertUp, offsets, regions.offsets);
    VKMOE_POINT(ExpertUp, tiles, regions.tiles);
    VKMOE_POINT(ExpertUp, tile_count, regions.tile_count);
    VKMOE_POINT(ExpertUp, token_of, regions.token_of);
    VKMOE_POINT(ExpertUp, hidden, test.output("hidden", size_t{regions.rows} * F));
    size_t kept = c.keep_totals != 0 ? size_t{regions.rows} * F : 1;
    VKMOE_POINT(ExpertUp, gate_total, test.output("gate_total", kept));
    VKMOE_POINT(ExpertUp, up_total, test.output("up_total", kept));
    VKMOE_POINT(ExpertUp, status, test.output("status", Words(2)));
    p.model_dim = D;
    p.hidden_dim = F;
    p.rows = regions.rows;
    p.dense_page = shape.experts - 1;
    p.experts = shape.experts;
    p.swiglu_limit = 0.75f;  // met often
    p.swiglu_alpha = 1.702f;
    test.setParams(p);
    test.threads = expertThreads(code, regions, F);
    double matrices = c.activation != kRelu ? 2 : 1;
    test.flops = 2.0 * regions.rows * D * F * matrices;
    test.bytes = weightBytes(c, shape, matrices) + 4.0 * regions.rows * (double(D) + F);
    if (c.keep_totals != 0) test.bytes += 4.0 * regions.rows * F * matrices;
    return test;
}

Case expertDown(const KernelCode& code, const Constants& c, const Shape& shape, Values& values) {
    Case test(code, c, shape.label());
    ExpertDown p{};
    uint32_t D = shape.model_dim, F = shape.hidden_dim;
    auto page = [&] {
        Words words;
        p.down_weight = uint32_t(append(words, packed(D, F, c.weight_format, values)));
        if (c.bias != 0) p.down_bias = uint32_t(append(words, biasWords(D, values)));
        return words;
    };
    ExpertRegions regions = addExperts(test, c, shape, values, page);
    uint32_t bits = operandBits(c.weight_format, c.fused != 0);
    VKMOE_POINT(ExpertDown, hidden, test.input("hidden", values.operands(size_t{regions.rows} * F, bits)));
    VKMOE_POINT(ExpertDown, pages, regions.table);
    VKMOE_POINT(ExpertDown, offsets, regions.offsets);
    VKMOE_POINT(ExpertDown, tiles, regions.tiles);
    VKMOE_POINT(ExpertDown, tile_count, regions.tile_count);
    VKMOE_POINT(ExpertDown, y, test.output("y", size_t{regions.rows} * D));
    VKMOE_POINT(ExpertDown, status, test.output("status", Words(2)));
    p.model_dim = D;
    p.hidden_dim = F;
    p.rows = regions.rows;
    p.dense_page = shape.experts - 1;
    p.experts = shape.experts;
    test.setParams(p);
    test.threads = expertThreads(code, regions, D);
    test.flops = 2.0 * regions.rows * D * F;
    test.bytes = weightBytes(c, shape, 1) + 4.0 * regions.rows * (double(D) + F);
    return test;
}

// ---- after the experts ----------------------------------------------------------------------------------------------

Case combineCase(const KernelCode& code, const Constants& c, const Shape& shape, Values& values) {
    Case test(code, c, shape.label());
    Routing routing = makeRouting(shape, values);
    for (auto& slot : routing.slot_of)
        if (shape.seed % 3 == 0 && values.below(3) == 0) slot = kAbsent;
    size_t slots = routing.slot_of.size(), outputs = size_t{shape.tokens} * shape.model_dim;
    VKMOE_POINT(Combine, y, test.input("y", values.floats(slots * shape.model_dim)));
    VKMOE_POINT(Combine, slot_of, test.input("slot_of", routing.slot_of));
    VKMOE_POINT(Combine, gates, test.input("gates", values.floats(slots)));
    VKMOE_POINT(Combine, shared_y, test.input("shared_y", values.floats(outputs)));
    VKMOE_POINT(Combine, shared_gates, test.input("shared_gates", values.positive(shape.tokens)));
    VKMOE_POINT(Combine, out_, test.output("out", outputs));
    VKMOE_POINT(Combine, status, test.output("status", Words(2)));
    test.setParams(Combine{.tokens = shape.tokens, .model_dim = shape.model_dim, .top_k = shape.top_k});
    test.threads = outputs;
    test.flops = 2.0 * double(slots) * shape.model_dim;
    test.bytes = 4.0 * (double(slots) * shape.model_dim + 2.0 * double(outputs));
    return test;
}

Case slotStats(const KernelCode& code, const Constants& c, const Shape& shape, Values& values) {
    Case test(code, c, shape.label());
    uint32_t slots = shape.tokens * shape.top_k;
    VKMOE_POINT(SlotStats, hidden, test.input("hidden", values.floats(size_t{slots} * shape.hidden_dim)));
    VKMOE_POINT(SlotStats, y, test.input("y", values.floats(size_t{slots} * shape.model_dim)));
    VKMOE_POINT(SlotStats, energy, test.output("energy", slots));
    VKMOE_POINT(SlotStats, scale, test.output("scale", slots));
    VKMOE_POINT(SlotStats, quiet, test.output("quiet", slots));
    test.setParams(SlotStats{.slots = slots, .hidden_dim = shape.hidden_dim, .model_dim = shape.model_dim});
    test.threads = slots;
    test.bytes = 4.0 * slots * (double(shape.hidden_dim) + shape.model_dim);
    return test;
}

Case mathProbe(const KernelCode&, const Constants&, const Shape& shape, Values&) {
    return mathCase(shape.seed % kProbeCount, shape.seed, shape.tokens);
}

Case peakMultiplyAdd(const KernelCode& code, const Constants& c, const Shape& shape, Values&) {
    Case test(code, c, shape.label());
    uint32_t threads = shape.tokens * kWorkgroup, iterations = shape.model_dim;
    VKMOE_POINT(PeakMultiplyAdd, result, test.output("result", threads));
    test.setParams(PeakMultiplyAdd{.threads = threads, .iterations = iterations});
    test.threads = threads;
    test.flops = 2.0 * kPeakChains * threads * iterations;
    return test;
}

Case peakRead(const KernelCode& code, const Constants& c, const Shape& shape, Values& values) {
    Case test(code, c, shape.label());
    uint32_t threads = shape.tokens * kWorkgroup, steps = shape.model_dim;
    Words source(size_t{threads} * steps);
    for (auto& word : source) word = values.bits();
    test.bytes = 4.0 * double(source.size());
    VKMOE_POINT(PeakRead, source, test.input("source", std::move(source)));
    VKMOE_POINT(PeakRead, result, test.output("result", threads));
    test.setParams(PeakRead{.threads = threads, .steps = steps});
    test.threads = threads;
    return test;
}

}  // namespace

std::vector<Maker> forwardMakers() {
    const Kernels& k = kernels();
    return {
        {&k.apply_rule, applyRule},
        {&k.pack_panels, packPanels},
        {&k.router_logits, routerLogits},
        {&k.route_topk, routeTopk},
        {&k.bin_count, binTokens},
        {&k.bin_offsets, binTokens},
        {&k.bin_tokens, binTokens},
        {&k.expert_up, expertUp},
        {&k.expert_up_gemv, expertUp},
        {&k.expert_down, expertDown},
        {&k.expert_down_gemv, expertDown},
        {&k.expert_up_lanes, expertUp},
        {&k.expert_down_lanes, expertDown},
        {&k.combine, combineCase},
        {&k.slot_stats, slotStats},
        {&k.math_probe, mathProbe},
        {&k.peak_multiply_add, peakMultiplyAdd},
        {&k.peak_read, peakRead},
        {&k.assign_capacity, assignCapacity},
        {&k.add_noise, addNoise},
        {&k.shared_gate, sharedGate},
    };
}

}  // namespace v1
}  // namespace vkmoe
