// Sums as long as models may need: a driver stops an invocation that loops more often than it likes, and says nothing.
#include <catch2/catch_test_macros.hpp>

#include "engine/cases/scene.h"
#include "engine/moe/expert_forms.h"
#include "tests/devices.h"
#include "tests/must.h"

using namespace vkmoe;
using test::must;

namespace {

constexpr uint32_t kModelDim = 16384, kHiddenDim = 32768;  // the largest of a description

void sameBitsEverywhere(const KernelCode& code, const Constants& constants, const Shape& shape) {
    auto scalar = openCpuDevice({.simd = false});
    Case test = makeCase(code, constants, shape);
    INFO(test.label());
    const auto expected = must(run(*scalar, test));
    for (Device* device : test::devices()) {
        INFO(device->info().name);
        CHECK(difference(test, must(run(*device, test)), expected).value_or("") == "");
    }
}

// On devices that have lanes, `height` rows at a time.
void sameBitsInLanes(const KernelCode& code, Constants constants, const Shape& shape, uint32_t height = kLanesRows) {
    auto scalar = openCpuDevice({.simd = false});
    for (Device* device : test::devices()) {
        constants.lanes = subgroupLanes(device->info().limits);
        constants.tile_rows = height;
        if (constants.lanes == 0) continue;
        Case test = makeCase(code, constants, shape);
        INFO(device->info().name << ": " << test.label());
        CHECK(difference(test, must(run(*device, test)), must(run(*scalar, test))).value_or("") == "");
    }
}

Shape wide(uint32_t model_dim, uint32_t hidden_dim) {
    return {.tokens = 3, .experts = 1, .top_k = 1, .model_dim = model_dim, .hidden_dim = hidden_dim, .seed = 11};
}

}  // namespace

TEST_CASE("no device stops before the end of a large vocabulary", "[kernels][device]") {
    sameBitsEverywhere(kernels().router_logits_backward, {},
                       {.tokens = 1, .experts = 151936, .top_k = 1, .model_dim = 3, .hidden_dim = 1, .seed = 11});
    sameBitsInLanes(kernels().router_logits_backward_lanes, {},
                    {.tokens = 17, .experts = 87360, .top_k = 1, .model_dim = 3, .hidden_dim = 1, .seed = 11});
}

TEST_CASE("no device stops before the end of the longest sums over tokens", "[kernels][device]") {
    const Shape longest{.tokens = 12000, .experts = 1, .top_k = 1, .model_dim = 32, .hidden_dim = 2, .seed = 11};
    for (uint32_t carry : {0u, 1u}) {
        const Constants sums{.operand_bits = 24, .dense = 1, .carry = carry};
        sameBitsEverywhere(kernels().expert_weight_grad, sums, longest);
        sameBitsInLanes(kernels().expert_weight_grad_lanes, sums, longest, 8);
    }
}

TEST_CASE("no device stops before the end of the widest row of a model", "[kernels][device]") {
    const Constants gated{.weight_format = kF32, .operand_bits = 24, .activation = kSiluGlu};
    sameBitsEverywhere(kernels().expert_up, gated, wide(kModelDim, 2));
    sameBitsEverywhere(kernels().expert_up_gemv, gated, wide(kModelDim, 2));
    sameBitsInLanes(kernels().expert_up_lanes, gated, wide(kModelDim, 2));
    sameBitsEverywhere(kernels().expert_down_backward, {.operand_bits = 24}, wide(kModelDim, 2));
    sameBitsInLanes(kernels().expert_down_backward_lanes, {.operand_bits = 24}, wide(kModelDim, 2));
    sameBitsEverywhere(kernels().router_logits, {.operand_bits = 24}, wide(kModelDim, 2));
    sameBitsEverywhere(kernels().shared_gate, {.operand_bits = 24}, wide(kModelDim, 2));
    sameBitsEverywhere(kernels().squared_error, {}, wide(kModelDim, 2));
}

TEST_CASE("no device stops before the end of the widest row of hidden values", "[kernels][device]") {
    const Constants gated{.operand_bits = 24, .activation = kSiluGlu};
    sameBitsEverywhere(kernels().expert_down, {}, wide(2, kHiddenDim));
    sameBitsEverywhere(kernels().expert_down_gemv, {}, wide(2, kHiddenDim));
    sameBitsInLanes(kernels().expert_down_lanes, {}, wide(2, kHiddenDim));
    sameBitsEverywhere(kernels().expert_up_backward, gated, wide(2, kHiddenDim));
    sameBitsInLanes(kernels().expert_up_backward_lanes, gated, wide(2, kHiddenDim));
    sameBitsEverywhere(kernels().slot_stats, {}, wide(kModelDim, kHiddenDim));
}
