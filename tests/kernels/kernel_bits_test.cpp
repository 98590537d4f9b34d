// A case for each line of kernels.inc, tagged with the kernel's name: every production form on every shape, SIMD and
// each Vulkan device against the scalar CPU twin, bit for bit.
//
//     vkmoe_tests "[route_topk]"
//
// A driver takes up to a second to build a form. VKMOE_TEST_FORMS=N leaves it an Nth of those a kernel has, which the
// seed chooses; the SIMD forms of the CPU are always all tried.
#include <algorithm>
#include <catch2/catch_get_random_seed.hpp>
#include <catch2/catch_test_macros.hpp>
#include <cstdlib>
#include <functional>
#include <random>
#include <string_view>

#include "engine/cases/scene.h"
#include "engine/moe/expert_forms.h"
#include "tests/devices.h"

using namespace vkmoe;

namespace {

void compareForm(Device& device, Device& scalar, const KernelCode& code, const Constants& constants) {
    for (const Shape& shape : edgeShapes(code)) {
        Case test = makeCase(code, constants, shape);
        auto expected = run(scalar, test);
        REQUIRE(expected);
        auto got = run(device, test);
        INFO(test.label());
        if (!got) FAIL(got.error().detail);
        auto different = difference(test, *got, *expected);
        if (different) FAIL_CHECK(*different);
    }
}

std::vector<Constants> formsOf(const KernelCode& code, const Device& device) {
    auto all = productionConstants(code, device.info().limits);
    const char* every = std::getenv("VKMOE_TEST_FORMS");
    size_t step = every && &device != test::devices().front() ? std::max(1, std::atoi(every)) : 1;
    std::mt19937_64 random(Catch::getSeed() ^ std::hash<std::string_view>()(code.name));
    std::vector<Constants> some;
    std::ranges::sample(all, std::back_inserter(some), std::ptrdiff_t((all.size() + step - 1) / step), random);
    return some;
}

void compareKernel(const KernelCode& code) {
    auto scalar = openCpuDevice({.simd = false});
    REQUIRE(!edgeShapes(code).empty());
    for (Device* device : test::devices()) {
        auto forms = formsOf(code, *device);
        // Only what needs subgroups is missing on some devices.
        if (forms.empty()) CHECK(subgroupLanes(device->info().limits) == 0);
        DYNAMIC_SECTION(device->info().name) {
            for (const Constants& constants : forms) compareForm(*device, *scalar, code, constants);
        }
        CHECK(device->ledger().used() == 0);
    }
}

}  // namespace

#define KERNEL(name, Params, fma, twin)                                                              \
    TEST_CASE(#name " has the CPU's bits on every device", "[kernels][device][narrow][" #name "]") { \
        compareKernel(kernels().name);                                                               \
    }
#include "engine/kernels.inc"
#undef KERNEL
