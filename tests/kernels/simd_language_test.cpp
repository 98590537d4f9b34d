// The SIMD forms of the language model's kernels against the scalar twins on every instruction set: the same bits, and
// the same count of what may not be stored.
#include <fmt/format.h>

#include <catch2/catch_test_macros.hpp>
#include <cmath>
#include <limits>

#include "engine/cases/makers.h"
#include "engine/cpu/simd/panel_tile.h"
#include "engine/cpu/twins.h"
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

constexpr uint32_t kTokens = 3, kDim = 77;
constexpr Groups kAll{0, 1000};

// Arguments of all kernels, one value of which is poison.
struct Arguments {
    Floats x = Floats(kTokens * kDim, 0.5f), weight = Floats(kDim, 0.75f), roots = Floats(kTokens, 0.5f);
    Floats out = Floats(kTokens * kDim, 0.25f), few = Floats(kDim);
    Words targets{1, kAbsent, 70}, positions{0, 1, 2}, ids{4}, offsets{0, kTokens}, panel = Words(kDim * kPanel);
    Words status = Words(2);
};

// Each kernel, so that it reads x, in the namespace of the scalar twins or of the SIMD forms.
#define VKMOE_RUNS(space)                                                                                          \
    {                                                                                                              \
        [](Arguments& a) {                                                                                         \
            space::add_rows({{a.x.data()}, {a.out.data()}, {a.out.data()}, {a.status.data()}, kTokens * kDim}, {}, \
                            kAll);                                                                                 \
        },                                                                                                         \
            [](Arguments& a) {                                                                                     \
                space::rms_norm({{a.x.data()},                                                                     \
                                 {a.weight.data()},                                                                \
                                 {a.out.data()},                                                                   \
                                 {a.roots.data()},                                                                 \
                                 {a.status.data()},                                                                \
                                 kTokens,                                                                          \
                                 kDim,                                                                             \
                                 1e-5f},                                                                           \
                                {}, kAll);                                                                         \
            },                                                                                                     \
            [](Arguments& a) {                                                                                     \
                space::rms_norm_backward({{a.out.data()},                                                          \
                                          {a.weight.data()},                                                       \
                                          {a.roots.data()},                                                        \
                                          {a.x.data()},                                                            \
                                          {a.out.data()},                                                          \
                                          {a.out.data()},                                                          \
                                          {a.status.data()},                                                       \
                                          kTokens,                                                                 \
                                          kDim},                                                                   \
                                         {}, kAll);                                                                \
            },                                                                                                     \
            [](Arguments& a) {                                                                                     \
                space::rms_norm_weight_grad({{a.out.data()},                                                       \
                                             {a.roots.data()},                                                     \
                                             {a.x.data()},                                                         \
                                             {a.few.data()},                                                       \
                                             {a.status.data()},                                                    \
                                             kTokens,                                                              \
                                             kDim},                                                                \
                                            {}, kAll);                                                             \
            },                                                                                                     \
            [](Arguments& a) {                                                                                     \
                space::causal_conv({{a.x.data()},                                                                  \
                                    {a.x.data()},                                                                  \
                                    {a.weight.data()},                                                             \
                                    {a.positions.data()},                                                          \
                                    {a.out.data()},                                                                \
                                    {a.status.data()},                                                             \
                                    kTokens,                                                                       \
                                    kDim,                                                                          \
                                    1},                                                                            \
                                   {}, kAll);                                                                      \
            },                                                                                                     \
            [](Arguments& a) {                                                                                     \
                space::causal_conv_backward({{a.x.data()},                                                         \
                                             {a.weight.data()},                                                    \
                                             {a.positions.data()},                                                 \
                                             {a.out.data()},                                                       \
                                             {a.status.data()},                                                    \
                                             1,                                                                    \
                                             kDim,                                                                 \
                                             1},                                                                   \
                                            {}, kAll);                                                             \
            },                                                                                                     \
            [](Arguments& a) {                                                                                     \
                space::causal_conv_weight_grad({{a.x.data()},                                                      \
                                                {a.out.data()},                                                    \
                                                {a.positions.data()},                                              \
                                                {a.few.data()},                                                    \
                                                {a.status.data()},                                                 \
                                                kTokens,                                                           \
                                                kDim,                                                              \
                                                1},                                                                \
                                               {}, kAll);                                                          \
            },                                                                                                     \
            [](Arguments& a) {                                                                                     \
                space::embed_backward({{a.x.data()},                                                               \
                                       {a.ids.data()},                                                             \
                                       {a.offsets.data()},                                                         \
                                       {a.positions.data()},                                                       \
                                       {a.panel.data()},                                                           \
                                       {a.status.data()},                                                          \
                                       1,                                                                          \
                                       kDim},                                                                      \
                                      {}, kAll);                                                                   \
            },                                                                                                     \
            [](Arguments& a) {                                                                                     \
                space::cross_entropy({{a.x.data()},                                                                \
                                      {a.targets.data()},                                                          \
                                      {a.roots.data()},                                                            \
                                      {a.out.data()},                                                              \
                                      {a.few.data()},                                                              \
                                      {a.status.data()},                                                           \
                                      kTokens,                                                                     \
                                      kDim},                                                                       \
                                     {.gradients = 1}, kAll);                                                      \
            }                                                                                                      \
    }

using Run = void (*)(Arguments&);
constexpr Run kScalar[] = VKMOE_RUNS(cpu), kSimd[] = VKMOE_RUNS(simd);

Words statusOf(Run run, uint32_t at, float poison) {
    Arguments a;
    a.x[at] = poison;
    run(a);
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
            for (size_t kernel = 0; kernel < std::size(kScalar); ++kernel) {
                INFO(fmt::format("kernel {}, {} at {}", kernel, poison, at));
                Words expected = statusOf(kScalar[kernel], at, poison);
                CHECK(statusOf(kSimd[kernel], at, poison) == expected);
                bool hidden = kernel + 1 == std::size(kScalar) && poison < 0;  // a logit without weight in the sum
                if (!hidden) CHECK(expected[0] > 0);
            }
}
