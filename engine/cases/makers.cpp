#include "engine/cases/makers.h"

#include <algorithm>

#include "engine/moe/expert_forms.h"

namespace vkmoe {
inline namespace v1 {
namespace {

std::vector<Maker> allMakers() {
    std::vector<Maker> all;
    for (auto* family : {forwardMakers, backwardMakers, matrixGradMakers, optimizerMakers, languageMakers})
        for (const Maker& maker : family()) all.push_back(maker);
    return all;
}

// Rows that a lanes form loads get an even length: see usesLanes.
void loadInPairs(const KernelCode& code, Shape& shape) {
    const Kernels& k = kernels();
    auto even = [](uint32_t& length) { length += length % 2; };
    if (&code == &k.expert_up_lanes || &code == &k.expert_down_backward_lanes) return even(shape.model_dim);
    if (&code == &k.expert_down_lanes || &code == &k.expert_up_backward_lanes) return even(shape.hidden_dim);
    if (&code == &k.router_logits_backward_lanes) return even(shape.experts);
    even(shape.model_dim);
    even(shape.hidden_dim);
}

}  // namespace

const std::vector<Maker>& makers() {
    static const std::vector<Maker> all = allMakers();
    return all;
}

Case makeCase(const KernelCode& code, const Constants& constants, const Shape& wanted) {
    Values values(wanted.seed);
    Shape shape = wanted;
    if (constants.weight_format == kMxfp4) {  // columns come in blocks
        shape.model_dim = (shape.model_dim + kBlock - 1) / kBlock * kBlock;
        shape.hidden_dim = (shape.hidden_dim + kBlock - 1) / kBlock * kBlock;
    }
    if (tileOutputs(code) == kLanesOutputs) loadInPairs(code, shape);
    for (const Maker& maker : makers())
        if (maker.code == &code) return maker.make(code, constants, shape, values);
    assert(!"a kernel without a case");
    return Case(code, constants, "none");
}

}  // namespace v1
}  // namespace vkmoe
