// Every production form of every kernel on every shape: SIMD and each Vulkan device against the scalar CPU twin, bit
// for bit.
#include <catch2/catch_test_macros.hpp>

#include "engine/cases/scene.h"
#include "tests/devices.h"

using namespace vkmoe;

TEST_CASE("every kernel has the CPU's bits on every device", "[kernels][device][narrow]") {
    auto scalar = openCpuDevice({.simd = false});
    for (Device* device : test::devices()) {
        for (const KernelCode* code : kernels().all()) {
            auto forms = productionConstants(*code, device->info().limits);
            if (forms.empty()) continue;  // the device lacks what this kernel needs
            DYNAMIC_SECTION(code->name << " on " << device->info().name) {
                uint32_t compared = 0;
                for (const Constants& constants : forms) {
                    for (const Shape& shape : edgeShapes(*code)) {
                        Case test = makeCase(*code, constants, shape);
                        auto expected = run(*scalar, test);
                        REQUIRE(expected);
                        auto got = run(*device, test);
                        INFO(test.label());
                        if (!got) FAIL(got.error().detail);
                        auto different = difference(test, *got, *expected);
                        if (different) FAIL_CHECK(*different);
                        ++compared;
                    }
                }
                CHECK(compared > 0);
            }
        }
        CHECK(device->ledger().used() == 0);
    }
}
