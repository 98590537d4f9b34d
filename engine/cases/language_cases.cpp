// Cases of the language model's kernels.
#include "engine/cases/expert_pages.h"
#include "engine/cases/makers.h"
#include "engine/moe/page_layout.h"

namespace vkmoe {
inline namespace v1 {
namespace {

size_t rowsOf(const Shape& shape) { return size_t{shape.tokens} * shape.model_dim; }

// Points a parameter at a status word.
#define VKMOE_STATUS(Params) VKMOE_POINT(Params, status, test.output("status", Words(2)))

// ---- embedding ------------------------------------------------------------------------------------------------------

uint32_t vocabOf(const Shape& shape) { return shape.experts * 3 + 1; }

Case embedTokens(const KernelCode& code, const Constants& c, const Shape& shape, Values& values) {
    Case test(code, c, shape.label());
    Words ids(shape.tokens);
    for (auto& id : ids) id = values.below(vocabOf(shape));
    VKMOE_POINT(EmbedTokens, ids, test.input("ids", ids));
    VKMOE_POINT(EmbedTokens, weight, test.input("weight", packed(vocabOf(shape), shape.model_dim, kF32, values)));
    VKMOE_POINT(EmbedTokens, x, test.output("x", rowsOf(shape)));
    test.setParams(EmbedTokens{.tokens = shape.tokens, .model_dim = shape.model_dim});
    test.threads = rowsOf(shape);
    test.bytes = 8.0 * double(rowsOf(shape));
    return test;
}

// Which rows of grad_x belong to which id, as the model sorts them.
struct Occurrences {
    Words ids, offsets, positions;
};

// A third of the tokens, where experts are taken one by one all of them, are of one id: a sum of several blocks.
Occurrences occurrences(const Shape& shape, Values& values) {
    std::vector<Words> of(vocabOf(shape));
    for (uint32_t t = 0; t < shape.tokens; ++t) {
        bool common = shape.skew == Skew::one_takes_all || values.below(3) == 0;
        of[common ? vocabOf(shape) / 2 : values.below(vocabOf(shape))].push_back(t);
    }
    Occurrences found;
    for (uint32_t id = 0; id < of.size(); ++id) {
        if (of[id].empty() && id % 5 != 0) continue;  // some that do not occur must keep their gradient
        found.ids.push_back(id);
        found.offsets.push_back(uint32_t(found.positions.size()));
        found.positions.insert(found.positions.end(), of[id].begin(), of[id].end());
    }
    found.offsets.push_back(uint32_t(found.positions.size()));
    return found;
}

Case embedBackward(const KernelCode& code, const Constants& c, const Shape& shape, Values& values) {
    Case test(code, c, shape.label());
    Occurrences found = occurrences(shape, values);
    uint32_t distinct = uint32_t(found.ids.size());
    VKMOE_POINT(EmbedBackward, grad_x, test.input("grad_x", values.floats(rowsOf(shape))));
    VKMOE_POINT(EmbedBackward, ids, test.input("ids", found.ids));
    VKMOE_POINT(EmbedBackward, offsets, test.input("offsets", found.offsets));
    VKMOE_POINT(EmbedBackward, positions, test.input("positions", found.positions));
    VKMOE_POINT(EmbedBackward, grad, test.output("grad", packed(vocabOf(shape), shape.model_dim, kF32, values)));
    VKMOE_STATUS(EmbedBackward);
    test.setParams(EmbedBackward{.distinct = distinct, .model_dim = shape.model_dim});
    test.threads = uint64_t{distinct} * shape.model_dim;
    test.flops = double(rowsOf(shape));
    test.bytes = 4.0 * (double(rowsOf(shape)) + 2.0 * double(test.threads));
    return test;
}

// ---- RMSNorm --------------------------------------------------------------------------------------------------------

Case rmsNorm(const KernelCode& code, const Constants& c, const Shape& shape, Values& values) {
    Case test(code, c, shape.label());
    VKMOE_POINT(RmsNorm, x, test.input("x", values.floats(rowsOf(shape))));
    VKMOE_POINT(RmsNorm, weight, test.input("weight", values.floats(shape.model_dim)));
    VKMOE_POINT(RmsNorm, y, test.output("y", rowsOf(shape)));
    VKMOE_POINT(RmsNorm, roots, test.output("roots", shape.tokens));
    VKMOE_STATUS(RmsNorm);
    test.setParams(RmsNorm{.tokens = shape.tokens, .model_dim = shape.model_dim, .epsilon = 1e-5f});
    test.threads = uint64_t{shape.tokens} * kWorkgroup;
    test.flops = 4.0 * double(rowsOf(shape));
    test.bytes = 8.0 * double(rowsOf(shape));
    return test;
}

// Roots of rows: ordinary ones, some very small and very large.
Words roots(const Shape& shape, Values& values) {
    Words words = values.positive(shape.tokens);
    for (auto& word : words)
        if (word < 0x35000000u) word = 0x3f000000u + values.below(0x01000000u);
    return words;
}

Case rmsNormBackward(const KernelCode& code, const Constants& c, const Shape& shape, Values& values) {
    Case test(code, c, shape.label());
    VKMOE_POINT(RmsNormBackward, x, test.input("x", values.floats(rowsOf(shape))));
    VKMOE_POINT(RmsNormBackward, weight, test.input("weight", values.floats(shape.model_dim)));
    VKMOE_POINT(RmsNormBackward, roots, test.input("roots", roots(shape, values)));
    VKMOE_POINT(RmsNormBackward, grad_y, test.input("grad_y", values.floats(rowsOf(shape))));
    size_t grad_x = test.output("grad_x", values.floats(rowsOf(shape)));  // every other seed in place
    VKMOE_POINT(RmsNormBackward, residual,
                shape.seed % 2 == 0 ? grad_x : test.input("residual", values.floats(rowsOf(shape))));
    VKMOE_POINT(RmsNormBackward, grad_x, grad_x);
    VKMOE_STATUS(RmsNormBackward);
    test.setParams(RmsNormBackward{.tokens = shape.tokens, .model_dim = shape.model_dim});
    test.threads = uint64_t{shape.tokens} * kWorkgroup;
    test.flops = 8.0 * double(rowsOf(shape));
    test.bytes = 16.0 * double(rowsOf(shape));
    return test;
}

Case rmsNormWeightGrad(const KernelCode& code, const Constants& c, const Shape& shape, Values& values) {
    Case test(code, c, shape.label());
    VKMOE_POINT(RmsNormWeightGrad, x, test.input("x", values.floats(rowsOf(shape))));
    VKMOE_POINT(RmsNormWeightGrad, roots, test.input("roots", roots(shape, values)));
    VKMOE_POINT(RmsNormWeightGrad, grad_y, test.input("grad_y", values.floats(rowsOf(shape))));
    VKMOE_POINT(RmsNormWeightGrad, grad, test.output("grad", values.floats(shape.model_dim)));
    VKMOE_STATUS(RmsNormWeightGrad);
    test.setParams(RmsNormWeightGrad{.tokens = shape.tokens, .model_dim = shape.model_dim});
    test.threads = shape.model_dim;
    test.flops = 3.0 * double(rowsOf(shape));
    test.bytes = 8.0 * double(rowsOf(shape));
    return test;
}

// ---- the causal convolution -----------------------------------------------------------------------------------------

// Some seeds' taps are more than a block, some have none.
uint32_t widthOf(const Shape& shape) {
    if (shape.seed % 8 == 0) return 0;
    return shape.seed % 4 == 3 ? shape.tokens / 2 + 2 : shape.top_k + 2;
}

// Positions of tokens in their sequences; the first one goes on with a sequence of `history` rows.
Words positionsOf(const Shape& shape, uint32_t history, Values& values) {
    Words positions(shape.tokens);
    uint32_t next = history;
    for (auto& position : positions) {
        if (values.below(40) == 0) next = 0;
        position = next++;
    }
    return positions;
}

Case causalConv(const KernelCode& code, const Constants& c, const Shape& shape, Values& values) {
    Case test(code, c, shape.label());
    uint32_t width = widthOf(shape), history = shape.seed % 2 * (width - 1);
    size_t rows = size_t{history} * shape.model_dim + rowsOf(shape);
    VKMOE_POINT(CausalConv, x, test.input("x", values.floats(rowsOf(shape))));
    VKMOE_POINT(CausalConv, n, test.input("n", values.operands(rows)));
    VKMOE_POINT(CausalConv, weight, test.input("weight", values.floats(size_t{width} * shape.model_dim)));
    VKMOE_POINT(CausalConv, positions, test.input("positions", positionsOf(shape, history, values)));
    VKMOE_POINT(CausalConv, u, test.output("u", rowsOf(shape)));
    VKMOE_STATUS(CausalConv);
    test.setParams(
        CausalConv{.tokens = shape.tokens, .model_dim = shape.model_dim, .width = width, .history = history});
    test.threads = rowsOf(shape);
    test.flops = 2.0 * width * double(rowsOf(shape));
    test.bytes = 12.0 * double(rowsOf(shape));
    return test;
}

Case causalConvBackward(const KernelCode& code, const Constants& c, const Shape& shape, Values& values) {
    Case test(code, c, shape.label());
    uint32_t width = widthOf(shape);
    Words positions = positionsOf(shape, 0, values), remaining(shape.tokens);
    for (uint32_t t = shape.tokens; t-- > 1;)
        if (positions[t] != 0) remaining[t - 1] = remaining[t] + 1;
    VKMOE_POINT(CausalConvBackward, grad_u, test.input("grad_u", values.floats(rowsOf(shape))));
    VKMOE_POINT(CausalConvBackward, weight, test.input("weight", values.floats(size_t{width} * shape.model_dim)));
    VKMOE_POINT(CausalConvBackward, remaining, test.input("remaining", remaining));
    VKMOE_POINT(CausalConvBackward, grad_n, test.output("grad_n", rowsOf(shape)));
    VKMOE_STATUS(CausalConvBackward);
    test.setParams(CausalConvBackward{.tokens = shape.tokens, .model_dim = shape.model_dim, .width = width});
    test.threads = rowsOf(shape);
    test.flops = 2.0 * width * double(rowsOf(shape));
    test.bytes = 8.0 * double(rowsOf(shape));
    return test;
}

Case causalConvWeightGrad(const KernelCode& code, const Constants& c, const Shape& shape, Values& values) {
    Case test(code, c, shape.label());
    uint32_t width = std::max(widthOf(shape), 1u);  // without taps there is nothing to run
    VKMOE_POINT(CausalConvWeightGrad, grad_u, test.input("grad_u", values.floats(rowsOf(shape))));
    VKMOE_POINT(CausalConvWeightGrad, n, test.input("n", values.operands(rowsOf(shape))));
    VKMOE_POINT(CausalConvWeightGrad, positions, test.input("positions", positionsOf(shape, 0, values)));
    VKMOE_POINT(CausalConvWeightGrad, grad, test.output("grad", values.floats(size_t{width} * shape.model_dim)));
    VKMOE_STATUS(CausalConvWeightGrad);
    test.setParams(CausalConvWeightGrad{.tokens = shape.tokens, .model_dim = shape.model_dim, .width = width});
    test.threads = uint64_t{width} * shape.model_dim;
    test.flops = 2.0 * width * double(rowsOf(shape));
    test.bytes = 8.0 * double(rowsOf(shape));
    return test;
}

// ---- loss and residual ----------------------------------------------------------------------------------------------

// Logits are spread over some tens, as a trained model's are; the largest vocabularies need more block totals than a
// workgroup holds at a time.
Case crossEntropy(const KernelCode& code, const Constants& c, const Shape& shape, Values& values) {
    Case test(code, c, shape.label());
    uint32_t vocab = uint32_t(std::min<uint64_t>(uint64_t{shape.model_dim} * shape.hidden_dim, 32000));
    Words logits(size_t{shape.tokens} * vocab), targets(shape.tokens);
    for (auto& word : logits) word = floatBitsToUint(values.next() * (values.below(8) == 0 ? 60.0f : 4.0f));
    for (auto& target : targets) target = values.below(6) == 0 ? kAbsent : values.below(vocab);
    size_t values_count = logits.size();
    // Every other seed in place, which the logits alone must not be changed by.
    bool in_place = shape.seed % 2 == 0 || c.gradients == 0;
    size_t memory = in_place ? test.output("logits", logits) : test.input("logits", logits);
    VKMOE_POINT(CrossEntropy, logits, memory);
    VKMOE_POINT(CrossEntropy, targets, test.input("targets", targets));
    VKMOE_POINT(CrossEntropy, weights, test.input("weights", values.positive(shape.tokens)));
    VKMOE_POINT(CrossEntropy, grad_logits, in_place ? memory : test.output("grad_logits", values_count));
    VKMOE_POINT(CrossEntropy, losses, test.output("losses", shape.tokens));
    VKMOE_STATUS(CrossEntropy);
    test.setParams(CrossEntropy{.tokens = shape.tokens, .vocab = vocab});
    test.threads = uint64_t{shape.tokens} * kWorkgroup;
    test.flops = (c.gradients != 0 ? 40.0 : 20.0) * double(values_count);  // an exponential is about twenty
    test.bytes = (c.gradients != 0 ? 8.0 : 4.0) * double(values_count);
    return test;
}

std::vector<Constants> crossEntropyForms(const DeviceLimits&) { return {{.gradients = 1}, {.gradients = 0}}; }

Case addRows(const KernelCode& code, const Constants& c, const Shape& shape, Values& values) {
    Case test(code, c, shape.label());
    uint32_t count = uint32_t(rowsOf(shape));
    size_t sum = test.output("sum", values.floats(count));  // every other seed in place
    VKMOE_POINT(AddRows, a, test.input("a", values.floats(count)));
    VKMOE_POINT(AddRows, b, shape.seed % 2 == 0 ? sum : test.input("b", values.floats(count)));
    VKMOE_POINT(AddRows, sum, sum);
    VKMOE_STATUS(AddRows);
    test.setParams(AddRows{.count = count});
    test.threads = count;
    test.flops = count;
    test.bytes = 12.0 * count;
    return test;
}

}  // namespace

std::vector<Maker> languageMakers() {
    const Kernels& k = kernels();
    return {
        {&k.embed_tokens, embedTokens},
        {&k.embed_backward, embedBackward},
        {&k.rms_norm, rmsNorm},
        {&k.rms_norm_backward, rmsNormBackward},
        {&k.rms_norm_weight_grad, rmsNormWeightGrad},
        {&k.causal_conv, causalConv},
        {&k.causal_conv_backward, causalConvBackward},
        {&k.causal_conv_weight_grad, causalConvWeightGrad},
        {&k.cross_entropy, crossEntropy, crossEntropyForms},
        {&k.add_rows, addRows},
    };
}

}  // namespace v1
}  // namespace vkmoe
