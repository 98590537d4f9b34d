// The SIMD forms of the language model's kernels against the scalar twins on every instruction set: the same bits, and
// the same count of what may not be stored.
#include <fmt/format.h>

#include <catch2/catch_test_macros.hpp>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "shaders/exact_math.h"
#include "tests/kernels/simd_cases.h"
#include "tests/math/sweep.h"

using namespace vkmoe;

namespace {

using Floats = std::vector<float>;

constexpr uint32_t kPositions = 19, kDim = 77;  // more rows than are summed at once

// Arguments of all kernels, one value of which is poison.
struct Arguments {
    Floats x = Floats(kPositions * kDim, 0.5f), weight = Floats(kDim, 0.75f), roots = Floats(kPositions, 0.5f);
    Floats out = Floats(kPositions * kDim, 0.25f), few = Floats(kDim);
    Words targets = Words(kPositions, 70), positions = Words(kPositions), ids{4}, offsets{0, kPositions};
    Words panel = Words(kDim * kPanel);
    Words status = Words(2);

    Arguments() {
        targets[1] = kAbsent;
        std::iota(positions.begin(), positions.end(), 0u);
    }
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
        call(k.causal_conv_backward, form, CausalConvBackward{x, weight, positions, out, status, kPositions, kDim, 1});
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

// Random rows, the second one of zeros, and room for what kernels make of them.
struct Rows {
    uint32_t rows, dim, width = 5;
    Floats x, other, weight, taps, roots, out;
    Words positions, status = Words(2);

    Rows(uint32_t rows_, uint32_t dim_, test::Random& random) : rows(rows_), dim(dim_) {
        auto values = [&](size_t count) {
            Floats all(count);
            for (float& v : all) v = float(int32_t(random.bits())) * 0x1p-31f;
            return all;
        };
        x = values(size_t{rows} * dim), other = values(size_t{rows} * dim), weight = values(dim);
        taps = values(size_t{dim} * width), roots = Floats(rows, 0.5f), out = values(size_t{rows} * dim);
        if (rows > 1) std::fill_n(x.begin() + dim, dim, 0.0f);
        for (uint32_t i = 0; i < rows; ++i) positions.push_back(i % 7);
    }
};

// What one of the kernels of rows leaves, run in ranges of `step` workgroups.
Floats leftBy(size_t kernel, CpuKernel KernelCode::*form, Rows r, uint64_t step) {
    const Kernels& k = kernels();
    const F32 x{r.x.data()}, other{r.other.data()}, weight{r.weight.data()}, taps{r.taps.data()}, roots{r.roots.data()},
        out{r.out.data()};
    const U32 positions{r.positions.data()}, status{r.status.data()};
    auto inRanges = [&](const KernelCode& code, const auto& params, uint64_t groups) {
        for (uint64_t first = 0; first < groups; first += step)
            (code.*form)(&params, words(Constants{}), {first, std::min(groups, first + step)});
    };
    const uint64_t all = (uint64_t{r.rows} * r.dim + kWorkgroup - 1) / kWorkgroup;
    if (kernel == 0) inRanges(k.rms_norm, RmsNorm{x, weight, out, roots, status, r.rows, r.dim, 0}, r.rows);
    if (kernel == 1)
        inRanges(k.rms_norm_backward, RmsNormBackward{other, weight, roots, x, out, out, status, r.rows, r.dim},
                 r.rows);
    if (kernel == 2)
        inRanges(k.causal_conv, CausalConv{x, other, taps, positions, out, status, r.rows, r.dim, r.width}, all);
    if (kernel == 3) {
        for (uint32_t i = 0; i < r.rows; ++i) r.positions[i] = std::min(6 - i % 7, r.rows - 1 - i);
        inRanges(k.causal_conv_backward, CausalConvBackward{x, taps, positions, out, status, r.rows, r.dim, r.width},
                 all);
    }
    r.out.insert(r.out.end(), r.roots.begin(), r.roots.end());
    for (uint32_t word : r.status) r.out.push_back(uintBitsToFloat(word));
    return r.out;
}

}  // namespace

TEST_CASE("the language model's SIMD forms have the scalar bits on every instruction set", "[kernels][simd]") {
    for (const Maker& maker : languageMakers()) CHECK(test::differenceOnAnyTarget({maker.code}) == "");
}

TEST_CASE("what the language model's kernels may not store is counted alike by SIMD forms", "[kernels][simd]") {
    const float infinity = std::numeric_limits<float>::infinity();
    for (float poison : {2e38f, -3e38f, infinity, -infinity, NAN})
        for (uint32_t at : {0u, 5u, 76u, 16 * kDim + 5, kPositions * kDim - 1})
            for (size_t kernel = 0; kernel < kKernels; ++kernel) {
                Words expected = statusOf(kernel, &KernelCode::cpu, at, poison);
                bool hidden = kernel == kEntropy && poison < 0;  // a logit without weight in the sum
                if (!hidden) CHECK(expected[0] > 0);
                for (int64_t target : test::SimdTarget::all()) {
                    test::SimdTarget chosen(target);
                    INFO(fmt::format("kernel {}, {} at {}, {}", kernel, poison, at, simd::targetName()));
                    CHECK(statusOf(kernel, &KernelCode::simd, at, poison) == expected);
                }
            }
}

TEST_CASE("rows of every length have the scalar bits in ranges of every length", "[kernels][simd]") {
    test::Random random(11);
    for (uint32_t rows : {1u, 2u, 17u, 40u})
        for (uint32_t dim : {1u, 15u, 16u, 31u, 33u, 64u, 96u, 500u}) {
            const Rows given(rows, dim, random);
            for (size_t kernel = 0; kernel < 4; ++kernel) {
                const Floats expected = leftBy(kernel, &KernelCode::cpu, given, 1000);
                for (int64_t target : test::SimdTarget::all()) {
                    test::SimdTarget chosen(target);
                    for (uint64_t step : {1u, 3u, 1000u}) {
                        INFO(fmt::format("kernel {}, {} rows of {}, ranges of {}, {}", kernel, rows, dim, step,
                                         simd::targetName()));
                        const Floats got = leftBy(kernel, &KernelCode::simd, given, step);
                        CHECK(std::memcmp(got.data(), expected.data(), 4 * expected.size()) == 0);
                    }
                }
            }
        }
}
