// Cases of the optimiser.
#include <cmath>

#include "engine/cases/expert_pages.h"
#include "engine/cases/makers.h"
#include "engine/moe/page_layout.h"

namespace vkmoe {
inline namespace v1 {
namespace {

// Stored values whose products with each other and with small constants lie around 2^-100 and below 2^-126, too.
float stateValue(Values& values) {
    const int exponents[] = {-99, -95, -60, -45, 12, 20};
    float x = values.next();
    return state_rule(values.below(4) == 0 ? std::ldexp(x, exponents[values.below(6)]) : x);
}

Words stateWords(size_t count, Values& values, bool positive = false) {
    Words out(count);
    for (auto& word : out) word = floatBitsToUint(stateValue(values)) & (positive ? 0x7fffffffu : 0xffffffffu);
    return out;
}

// Zero one time in four: elements without a gradient, with and without moments.
Words gradWords(size_t count, Values& values) {
    Words out = stateWords(count, values);
    for (auto& word : out)
        if (values.below(4) == 0) word = 0;
    return out;
}

// Pages of model_dim words. Every other seed decays and clips.
Case adamwCase(const KernelCode& code, const Constants& c, const Shape& shape, Values& values) {
    Case test(code, c, shape.label());
    uint32_t count = shape.tokens * shape.model_dim;
    Words touched(shape.tokens), second = stateWords(count, values, true);
    for (auto& word : touched) word = values.below(2);
    for (auto& word : second)
        if (values.below(4) == 0) word = 0;
    VKMOE_POINT(Adamw, weights, test.output("weights", stateWords(count, values)));
    VKMOE_POINT(Adamw, grads, test.input("grads", gradWords(count, values)));
    VKMOE_POINT(Adamw, first, test.output("first", gradWords(count, values)));
    VKMOE_POINT(Adamw, second, test.output("second", std::move(second)));
    VKMOE_POINT(Adamw, touched, test.input("touched", std::move(touched)));
    VKMOE_POINT(Adamw, status, test.output("status", Words(2)));
    Adamw p{.count = count, .page_words = shape.model_dim, .grad_scale = 0x1p-14f, .clip = 1, .learning_rate = 0.01f};
    p.beta1 = 0.9f, p.one_minus_beta1 = 0.1f, p.correction1 = 3.6900370f;
    p.beta2 = 0.999f, p.one_minus_beta2 = 0.001f, p.correction2 = 333.66700f;
    p.epsilon = 1e-8f;
    if (shape.seed % 2 != 0) p.grad_scale = 0.3f, p.clip = 0.7f, p.weight_decay = 0.1f;
    test.setParams(p);
    test.threads = count;
    test.flops = 20.0 * count;
    test.bytes = 28.0 * count;
    return test;
}

// The last edge shape has more than five groups.
Case gradSquares(const KernelCode& code, const Constants& c, const Shape& shape, Values& values) {
    Case test(code, c, shape.label());
    uint32_t count = shape.tokens * shape.model_dim * (shape.seed % 2 != 0 ? 2 * shape.experts : 1);
    VKMOE_POINT(GradSquares, grads, test.input("grads", stateWords(count, values)));
    uint32_t sums = ceilDiv(count, 65536) * kWorkgroup;
    VKMOE_POINT(GradSquares, squares, test.output("squares", sums));
    VKMOE_POINT(GradSquares, status, test.output("status", Words(2)));
    test.setParams(GradSquares{.count = count, .scale = shape.seed % 3 == 0 ? 0x1p12f : 0.3f});  // some overflow
    test.threads = sums;
    test.flops = 3.0 * count;
    test.bytes = 4.0 * count;
    return test;
}

// Regions of pages, a table of their addresses, and where a page begins.
size_t pageTable(Case& test, const std::string& name, std::vector<Words> pages, bool output) {
    size_t table = test.input(name + " table", Words(2 * pages.size()));
    for (size_t i = 0; i < pages.size(); ++i) {
        std::string page = name + " page " + std::to_string(i);
        size_t region = output ? test.output(page, std::move(pages[i])) : test.input(page, std::move(pages[i]));
        test.pointFrom(table, 8 * i, region);
    }
    return table;
}

// Leaves the first page out where there are more.
Case roundPanels(const KernelCode& code, const Constants& c, const Shape& shape, Values& values) {
    Case test(code, c, shape.label());
    uint32_t rows = shape.hidden_dim, cols = shape.model_dim, pages = std::min(shape.experts, 5u);
    const uint32_t source_weight = 4, target_weight = 8;
    auto words = uint32_t(packedWords(rows, cols, WeightFormat::bf16));
    std::vector<Words> source, target(pages, Words(target_weight + words + 4, 0xa5a5a5a5u));
    for (uint32_t i = 0; i < pages; ++i) {
        source.push_back(Words(source_weight, 0x3f800000u));
        Words weights = stateWords(packedWords(rows, cols, WeightFormat::f32), values);
        source.back().insert(source.back().end(), weights.begin(), weights.end());
    }
    VKMOE_POINT(RoundPanels, source, pageTable(test, "source", std::move(source), false));
    VKMOE_POINT(RoundPanels, target, pageTable(test, "target", std::move(target), true));
    RoundPanels p{.first_page = pages > 1 ? 1u : 0u, .rows = rows, .cols = cols};
    p.pages = pages - p.first_page;
    p.source_weight = source_weight;
    p.target_weight = target_weight;
    test.setParams(p);
    test.threads = uint64_t{p.pages} * words;
    test.bytes = 12.0 * double(p.pages) * words;
    return test;
}

Case copyWords(const KernelCode& code, const Constants& c, const Shape& shape, Values& values) {
    Case test(code, c, shape.label());
    uint32_t count = shape.hidden_dim, pages = std::min(shape.experts, 5u);
    const uint32_t source_at = 3, target_at = 1;
    std::vector<Words> source, target(pages, Words(target_at + count + 2, 0xa5a5a5a5u));
    for (uint32_t i = 0; i < pages; ++i) source.push_back(stateWords(source_at + count, values));
    VKMOE_POINT(CopyWords, source, pageTable(test, "source", std::move(source), false));
    VKMOE_POINT(CopyWords, target, pageTable(test, "target", std::move(target), true));
    CopyWords p{.first_page = pages > 1 ? 1u : 0u, .count = count, .source_at = source_at, .target_at = target_at};
    p.pages = pages - p.first_page;
    test.setParams(p);
    test.threads = uint64_t{p.pages} * count;
    test.bytes = 8.0 * double(p.pages) * count;
    return test;
}

// Values around the ends of float16, too.
Case scaleGradients(const KernelCode& code, const Constants& c, const Shape& shape, Values& values) {
    Case test(code, c, shape.label());
    uint32_t count = shape.tokens * shape.model_dim;
    const float scale = 0x1p14f;
    Words grads = stateWords(count, values);
    const int exponents[] = {-41, -40, -39, -38, -30, -29, -28, -27, 0, 1, 2};
    for (auto& word : grads)
        if (values.below(2) == 0)
            word = floatBitsToUint(state_rule(std::ldexp(values.next(), exponents[values.below(11)])));
    VKMOE_POINT(ScaleGradients, grads, test.output("grads", std::move(grads)));
    test.setParams(ScaleGradients{.count = count, .before = scale, .after = 1 / scale});
    test.threads = count;
    test.bytes = 8.0 * count;
    return test;
}

std::vector<Constants> scaleForms(const DeviceLimits&) { return {{.weight_format = kF32}, {.weight_format = kF16}}; }
std::vector<Constants> adamwForms(const DeviceLimits&) { return {{.skip = 0}, {.skip = 1}}; }

}  // namespace

std::vector<Maker> optimizerMakers() {
    const Kernels& k = kernels();
    return {{&k.adamw, adamwCase, adamwForms},
            {&k.grad_squares, gradSquares},
            {&k.round_panels, roundPanels},
            {&k.copy_words, copyWords},
            {&k.scale_gradients, scaleGradients, scaleForms}};
}

}  // namespace v1
}  // namespace vkmoe
