// The functions of exact_math.h on every device against the CPU, bit for bit: adversarial cases and sweeps.
#include <fmt/format.h>

#include <catch2/catch_test_macros.hpp>
#include <cstddef>
#include <optional>
#include <string>

#include "engine/cases/scene.h"
#include "shaders/math_probe.h"
#include "tests/devices.h"
#include "tests/math/sweep.h"

using namespace vkmoe;

namespace {

constexpr uint32_t kStep = 4099;       // a prime near 2^12: about 2^20 points
constexpr uint32_t kChunk = 1u << 24;  // points of one dispatch of an exhaustive sweep

// Functions of one argument that the contract covers for every bit pattern.
constexpr uint32_t kSwept[] = {kProbeSqrt,      kProbeRsqrt,     kProbeExp,        kProbeLog,
                               kProbeSigmoid,   kProbeSilu,      kProbeTanh,       kProbeGelu,
                               kProbeF16Decode, kProbeF16Encode, kProbeBf16Decode, kProbeBf16Encode,
                               kProbeRound,     kProbeOperand,   kProbeState,      kProbeOrderKey};

// function(x, x) for the bit patterns x = first + i*step.
Case sweepCase(uint32_t function, uint32_t first, uint32_t step, uint32_t count) {
    Case test(kernels().math_probe, {}, mathFunctionName(function));
    size_t result = test.output("result", count);
    for (size_t member : {offsetof(MathProbe, a), offsetof(MathProbe, b), offsetof(MathProbe, result)})
        test.point(member, result);
    test.setParams(MathProbe{.count = count, .function = function, .first = first, .step = step});
    test.threads = count;
    return test;
}

// function(a[i], b[i])
Case listCase(uint32_t function, std::vector<uint32_t> a, std::vector<uint32_t> b) {
    uint32_t count = static_cast<uint32_t>(a.size());
    Case test(kernels().math_probe, {}, mathFunctionName(function));
    test.point(offsetof(MathProbe, a), test.input("a", std::move(a)));
    test.point(offsetof(MathProbe, b), test.input("b", std::move(b)));
    test.point(offsetof(MathProbe, result), test.output("result", count));
    test.setParams(MathProbe{.count = count, .function = function});
    test.threads = count;
    return test;
}

// The arguments of invocation i, as the kernel sees them.
std::string arguments(const Case& test, size_t i) {
    MathProbe params;
    std::memcpy(&params, test.params().data(), sizeof params);
    if (params.step != 0) return fmt::format("0x{:08x}", params.first + static_cast<uint32_t>(i) * params.step);
    return fmt::format("0x{:08x}, 0x{:08x}", test.regions()[0].words[i], test.regions()[1].words[i]);
}

// "exp(0x3f800000) is 0x402df855, the CPU's is 0x402df854 (1 of 1048576 differ)"
std::optional<std::string> compare(const Case& test, const CaseRun& device, const CaseRun& cpu) {
    const auto& got = device.regions.back();
    const auto& expected = cpu.regions.back();
    size_t differ = 0, first = 0;
    for (size_t i = 0; i < got.size(); ++i)
        if (got[i] != expected[i] && differ++ == 0) first = i;
    if (differ == 0) return std::nullopt;
    return fmt::format("{}({}) is 0x{:08x}, the CPU's is 0x{:08x} ({} of {} differ)", test.label(),
                       arguments(test, first), got[first], expected[first], differ, got.size());
}

// Runs a case on the CPU's scalar twin and on these devices, and compares.
void checkCase(const Case& test, const std::vector<Device*>& devices) {
    static auto scalar = openCpuDevice({.simd = false});
    auto expected = run(*scalar, test);
    REQUIRE(expected);
    for (Device* device : devices) {
        auto got = run(*device, test);
        INFO(device->info().name);
        if (!got) FAIL(got.error().detail);
        auto different = compare(test, *got, *expected);
        if (different) FAIL_CHECK(*different);
    }
}

void checkNear(uint32_t function, const std::vector<Device*>& devices) {
    test::Inputs inputs(uint64_t{1} << 32);
    std::vector<uint32_t> a(inputs.count());
    for (size_t i = 0; i < a.size(); ++i) a[i] = inputs[i];
    checkCase(listCase(function, a, a), devices);
}

std::vector<uint32_t> randomBits(test::Random& random, uint32_t count, bool near_one) {
    std::vector<uint32_t> bits(count);
    for (uint32_t& b : bits) b = near_one ? random.between(-20, 20) : random.bits();
    return bits;
}

std::vector<Device*> gpusOrSkip() {
    auto gpus = test::gpus();
    if (gpus.empty()) SKIP("no Vulkan device");
    return gpus;
}

}  // namespace

TEST_CASE("adversarial arguments have the CPU's bits on every device", "[math][device]") {
    for (uint32_t function = 0; function < kProbeCount; ++function)
        for (uint32_t seed : {1u, 2u, 3u})
            for (uint32_t count : {0u, 1u, 63u, 64u, 65u, 5000u})
                checkCase(mathCase(function, seed, count), test::devices());
}

TEST_CASE("sweeps over the floats have the CPU's bits on every GPU", "[math][gpu][device]") {
    auto gpus = gpusOrSkip();
    for (uint32_t function : kSwept) {
        checkCase(sweepCase(function, 0, kStep, 0xffffffffu / kStep + 1), gpus);
        checkNear(function, gpus);
    }
}

TEST_CASE("sweeps over all floats have the CPU's bits on every GPU", "[.exhaustive-gpu]") {
    auto gpus = gpusOrSkip();
    for (uint32_t function : kSwept)
        for (uint64_t first = 0; first <= 0xffffffffu; first += kChunk)
            checkCase(sweepCase(function, static_cast<uint32_t>(first), 1, kChunk), gpus);
}

TEST_CASE("quotients of random pairs have the CPU's bits on every GPU", "[math][gpu][device]") {
    auto gpus = gpusOrSkip();
    for (bool near_one : {false, true}) {
        test::Random random(near_one);
        auto a = randomBits(random, 1u << 20, near_one), b = randomBits(random, 1u << 20, near_one);
        checkCase(listCase(kProbeDiv, a, b), gpus);
        checkCase(listCase(kProbeRound, std::move(a), std::move(b)), gpus);
    }
}

TEST_CASE("quotients of 200 million random pairs have the CPU's bits on every GPU", "[.exhaustive-gpu]") {
    auto gpus = gpusOrSkip();
    for (uint32_t round = 0; round < 50; ++round) {
        test::Random random(100 + round);
        auto a = randomBits(random, 1u << 22, round % 2 == 0), b = randomBits(random, 1u << 22, round % 2 == 0);
        checkCase(listCase(kProbeDiv, std::move(a), std::move(b)), gpus);
    }
}
