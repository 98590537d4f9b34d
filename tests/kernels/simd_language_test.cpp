// The SIMD forms of the language model's kernels against the scalar twins on every instruction set: the same bits, and
// the same count of what may not be stored.
#include <fmt/format.h>

#include <catch2/catch_test_macros.hpp>
#include <cmath>
#include <limits>

#include "engine/cases/makers.h"
#include "engine/cpu/simd/panel_tile.h"
#include "tests/simd_targets.h"

using namespace vkmoe;

namespace {

using Floats = std::vector<float>;

// The first difference of any form on any shape.
std::string firstDifference(Device& scalar, Device& device, const KernelCode& code) {
    for (const Constants& constants : productionConstants(code, device.info().limits))
        for (const Shape& shape : edgeShapes(code)) {
            Case test = makeCase(code, constants, shape);
            auto expected = run(scalar, test), got = run(device, test);
            if (!expected || !got) return "it did not run";
            if (auto different = difference(test, *got, *expected)) return *different;
        }
    return "";
}

constexpr uint32_t kPositions = 3, kDim = 77;

// Arguments of all kernels, one value of which is poison.
struct Arguments {
    Floats x = Floats(kPositions * kDim, 0.5f), weight = Floats(kDim, 0.75f), roots = Floats(kPositions, 0.5f);
    Floats out = Floats(kPositions * kDim, 0.25f), few = Floats(kDim);
    Words targets{1, kAbsent, 70}, positions{0, 1, 2}, ids{4}, offsets{0, kPositions}, panel = Words(kDim * kPanel);
    Words status = Words(2);
};

template <class Params>
void call(const KernelCode& code, CpuKernel KernelCode::*form, const Params& params) {
    (code.*form)(&params, words(Constants{.gradients = 1}), {0, 1000});
}

constexpr size_t kKernels = 9, kEntropy = 8;

// Runs one of the kernels so that it reads x.
void run(size_t kernel, CpuKernel KernelCode::*form, Arguments& a) {
    const Kernels& k = kernels();
    const F32 x{a.x.data()}, weight{a.weight.data()}, roots{a.roots.data()}, out{a.out.data()}, few{a.few.data()};
    const U32 positions{a.positions.data()}, status{a.status.data()};
    if (kernel == 0) call(k.add_rows, form, AddRows{x, out, out, status, kPositions * kDim});
    if (kernel == 1) call(k.rms_norm, form, RmsNorm{x, weight, out, roots, status, kPositions, kDim, 1e-5f});
    if (kernel == 2)
        call(k.rms_norm_backward, form, RmsNormBackward{out, weight, roots, x, out, out, status, kPositions, kDim});
    if (kernel == 3)
        call(k.rms_norm_weight_grad, form, RmsNormWeightGrad{out, roots, x, few, status, kPositions, kDim});
    if (kernel == 4) call(k.causal_conv, form, CausalConv{x, x, weight, positions, out, status, kPositions, kDim, 1});
    if (kernel == 5)
        call(k.causal_conv_backward, form, CausalConvBackward{x, weight, positions, out, status, 1, kDim, 1});
    if (kernel == 6)
        call(k.causal_conv_weight_grad, form,
             CausalConvWeightGrad{x, out, positions, few, status, kPositions, kDim, 1});
    if (kernel == 7)
        call(k.embed_backward, form,
             EmbedBackward{x, {a.ids.data()}, {a.offsets.data()}, positions, {a.panel.data()}, status, 1, kDim});
    if (kernel == kEntropy)
        call(k.cross_entropy, form, CrossEntropy{x, {a.targets.data()}, roots, out, few, status, kPositions, kDim});
}

Words statusOf(size_t kernel, CpuKernel KernelCode::*form, uint32_t at, float poison) {
    Arguments a;
    a.x[at] = poison;
    run(kernel, form, a);
    return a.status;
}

}  // namespace

TEST_CASE("the language model's SIMD forms have the scalar bits on every instruction set", "[kernels][simd]") {
    auto scalar = openCpuDevice({.simd = false}), device = openCpuDevice({.simd = true});
    for (int64_t target : test::SimdTarget::all()) {
        test::SimdTarget chosen(target);
        for (const Maker& maker : languageMakers()) {
            INFO(simd::targetName());
            CHECK(firstDifference(*scalar, *device, *maker.code) == "");
        }
    }
}

TEST_CASE("what the language model's kernels may not store is counted alike by SIMD forms", "[kernels][simd]") {
    const float infinity = std::numeric_limits<float>::infinity();
    for (float poison : {2e38f, -3e38f, infinity, -infinity, NAN})
        for (uint32_t at : {0u, 5u, 76u})
            for (size_t kernel = 0; kernel < kKernels; ++kernel) {
                INFO(fmt::format("kernel {}, {} at {}", kernel, poison, at));
                Words expected = statusOf(kernel, &KernelCode::cpu, at, poison);
                CHECK(statusOf(kernel, &KernelCode::simd, at, poison) == expected);
                bool hidden = kernel == kEntropy && poison < 0;  // a logit without weight in the sum
                if (!hidden) CHECK(expected[0] > 0);
            }
}
