// Gradients of activations over all kinds of gates: the SIMD forms have the scalar bits on every instruction set, and
// arithmetic that flushes subnormals has the bits of one that keeps them.
#include <fmt/format.h>

#include <catch2/catch_test_macros.hpp>
#include <vector>

#include "engine/cpu/twins.h"
#include "shaders/exact_math.h"
#include "tests/math/flush_subnormals.h"
#include "tests/math/sweep.h"
#include "tests/simd_targets.h"

using namespace vkmoe;

namespace {

constexpr uint32_t kActivations[] = {kRelu, kSiluGlu, kGeluGlu, kClampedSwiglu};

struct Slopes {
    std::vector<float> gate, up;
    uint32_t status[2] = {};
    explicit Slopes(size_t count) : gate(count), up(count) {}
};

// One range of a sweep, with ups and gradients that go with its gates.
struct Range {
    std::vector<float> gate, up, grad;

    Range(const test::Inputs& inputs, uint64_t begin, uint64_t end) {
        for (uint64_t i = begin; i < end; ++i) {
            gate.push_back(uintBitsToFloat(inputs[i]));
            up.push_back(i % 3 == 0 ? uintBitsToFloat(inputs[i * 7919 % inputs.count()]) : i % 3 == 1 ? 1.0f : -0.25f);
            grad.push_back(i % 5 == 0 ? uintBitsToFloat(inputs[i * 104729 % inputs.count()]) : 1.0f);
        }
    }

    Slopes run(void (*kernel)(const ActivationBackward&, const Constants&, Groups), const Constants& c) {
        Slopes out(gate.size());
        kernel({.gate_total = {gate.data()},
                .up_total = {up.data()},
                .grad_hidden = {grad.data()},
                .grad_gate = {out.gate.data()},
                .grad_up = {out.up.data()},
                .status = {out.status},
                .count = uint32_t(gate.size()),
                .swiglu_limit = 7,
                .swiglu_alpha = 1.702f},
               c, {0, gate.size() / kWorkgroup + 1});
        return out;
    }
};

bool same(float a, float b) { return (is_nan(a) && is_nan(b)) || floatBitsToUint(a) == floatBitsToUint(b); }

void compare(const Slopes& a, const Slopes& b, uint64_t begin, test::Sweep& sweep) {
    for (size_t i = 0; i < a.gate.size(); ++i)
        sweep.check(same(a.gate[i], b.gate[i]) && same(a.up[i], b.up[i]), begin + i);
    sweep.check(a.status[0] == b.status[0] && a.status[1] == b.status[1], begin);
}

// The scalar results of every activation against those of rival(range, constants).
template <class Rival>
void checkAll(const test::Inputs& inputs, const char* what, const Rival& rival) {
    for (uint32_t activation : kActivations) {
        Constants c{.operand_bits = activation == kSiluGlu ? 16u : 24u, .activation = activation};
        test::Sweep sweep = test::sweepRanges(inputs.count(), [&](uint64_t begin, uint64_t end, test::Sweep& found) {
            Range range(inputs, begin, end);
            compare(range.run(cpu::activation_backward, c), rival(range, c), begin, found);
        });
        uint32_t gate = sweep.failures != 0 ? inputs[sweep.first] : 0;
        INFO(
            fmt::format("{}, activation {}, {} failures, first gate 0x{:08x}", what, activation, sweep.failures, gate));
        CHECK(sweep.failures == 0);
    }
}

}  // namespace

TEST_CASE("gradients of activations on vectors have the scalar bits", "[math][simd][backward]") {
    for (int64_t target : test::SimdTarget::all()) {
        test::SimdTarget chosen(target);
        checkAll(test::Inputs(30011), fmt::format("target {:#x}", target).c_str(),
                 [](Range& range, const Constants& c) { return range.run(simd::activation_backward, c); });
    }
}

TEST_CASE("flushing subnormals does not change gradients of activations", "[math][backward]") {
    if (!test::FlushSubnormals::kSupported) SKIP("no control of subnormals here");
    checkAll(test::Inputs(8209), "flushed", [](Range& range, const Constants& c) {
        test::FlushSubnormals flush;
        return range.run(cpu::activation_backward, c);
    });
}
