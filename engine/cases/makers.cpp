#include "engine/cases/makers.h"

#include <algorithm>

namespace vkmoe {
inline namespace v1 {
namespace {

std::vector<Maker> allMakers() {
    std::vector<Maker> all;
    for (auto* family : {forwardMakers, backwardMakers, matrixGradMakers, optimizerMakers, languageMakers})
        for (const Maker& maker : family()) all.push_back(maker);
    return all;
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
    for (const Maker& maker : makers())
        if (maker.code == &code) return maker.make(code, constants, shape, values);
    assert(!"a kernel without a case");
    return Case(code, constants, "none");
}

}  // namespace v1
}  // namespace vkmoe
