// The activations on vectors against the scalar ones, bit for bit, on every instruction set.
#include <fmt/format.h>

#include <catch2/catch_test_macros.hpp>

#include "engine/cpu/panel.h"
#include "engine/cpu/simd/epilogue.h"
#include "engine/cpu/simd/panel_tile.h"
#include "tests/math/sweep.h"
#include "tests/simd_targets.h"

using namespace vkmoe;

namespace {

constexpr uint32_t kActivations[] = {kRelu, kSiluGlu, kGeluGlu, kClampedSwiglu};
constexpr uint32_t kRows = 4, kWidth = 61;  // of a tile: its rows end in padding
constexpr float kLimit = 7, kAlpha = 1.702f;

bool same(float a, float b) { return (is_nan(a) && is_nan(b)) || floatBitsToUint(a) == floatBitsToUint(b); }

// One tile of gates and of ups that go with them; what is past the last is zero.
void checkTile(const test::Inputs& inputs, uint64_t begin, uint64_t end, const Constants& c, test::Sweep& sweep) {
    alignas(64) float gate[kRows][simd::kRunOutputs] = {}, up[kRows][simd::kRunOutputs] = {}, out[kRows * kWidth];
    uint32_t count = uint32_t(end - begin), counted[2] = {}, expected[2] = {};
    for (uint32_t i = 0; i < count; ++i) {
        float &g = gate[i / kWidth][i % kWidth], &u = up[i / kWidth][i % kWidth];
        g = uintBitsToFloat(inputs[begin + i]);
        u = uintBitsToFloat(inputs[(begin + i) * 7919 % inputs.count()]);
        if (begin % 3 != 0) u = c.activation == kRelu ? g : 1.0f;  // so that much of the gate shows
    }
    simd::storeHidden({out, {counted}, 0, kWidth, kRows, kWidth}, gate, up, c, kLimit, kAlpha);
    for (uint32_t i = 0; i < count; ++i) {
        float g = gate[i / kWidth][i % kWidth], u = up[i / kWidth][i % kWidth];
        float h = activate(g, u, c.activation, kLimit, kAlpha);
        checkHidden(g, u, h, {expected}, i);
        sweep.check(same(out[i], as_operand(h, c.operand_bits)), begin + i);
    }
    sweep.check(counted[0] == expected[0] && counted[1] == expected[1], begin);
}

test::Sweep sweepActivation(const test::Inputs& inputs, const Constants& c) {
    return test::sweepRanges(inputs.count(), [&](uint64_t begin, uint64_t end, test::Sweep& sweep) {
        for (uint64_t at = begin; at < end; at += kRows * kWidth)
            checkTile(inputs, at, std::min(end, at + kRows * kWidth), c, sweep);
    });
}

void checkAll(const test::Inputs& inputs, int64_t target) {
    test::SimdTarget chosen(target);
    for (uint32_t activation : kActivations) {
        uint32_t bits = activation == kSiluGlu ? 13 : 24;
        test::Sweep sweep = sweepActivation(inputs, {.operand_bits = bits, .activation = activation});
        uint32_t gate = sweep.failures != 0 ? inputs[sweep.first] : 0;
        INFO(fmt::format("{}, activation {}, first gate 0x{:08x}", simd::targetName(), activation, gate));
        CHECK(sweep.failures == 0);
    }
}

}  // namespace

TEST_CASE("activations on vectors have the scalar bits", "[math][simd]") {
    for (int64_t target : test::SimdTarget::all()) checkAll(test::Inputs(8209), target);
}

TEST_CASE("activations on vectors have the scalar bits for every gate", "[math][simd][.exhaustive]") {
    checkAll(test::Inputs(1), 0);
}
