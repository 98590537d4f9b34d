// The optimiser's SIMD forms against the scalar twins, bit for bit, on every instruction set.
#include <catch2/catch_test_macros.hpp>

#include "engine/cases/scene.h"
#include "tests/simd_targets.h"

using namespace vkmoe;

TEST_CASE("the optimiser has the scalar twins' bits on every instruction set", "[optimizer][simd]") {
    auto scalar = openCpuDevice({.simd = false}), simd = openCpuDevice();
    const Kernels& k = kernels();
    for (const KernelCode* code : {&k.adamw, &k.grad_squares, &k.round_panels})
        for (const Constants& constants : productionConstants(*code, scalar->info().limits))
            for (const Shape& shape : edgeShapes(*code)) {
                Case test = makeCase(*code, constants, shape);
                auto expected = run(*scalar, test);
                REQUIRE(expected);
                for (int64_t target : test::SimdTarget::all()) {
                    test::SimdTarget use(target);
                    CAPTURE(hwy::TargetName(target), test.label());
                    auto got = run(*simd, test);
                    REQUIRE(got);
                    auto different = difference(test, *got, *expected);
                    if (different) FAIL_CHECK(*different);
                }
            }
}
