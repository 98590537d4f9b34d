// The optimiser's SIMD forms against the scalar twins, bit for bit, on every instruction set.
#include <fmt/format.h>

#include <catch2/catch_get_random_seed.hpp>
#include <catch2/catch_test_macros.hpp>

#include "engine/cpu/twin.h"
#include "engine/cpu/twins.h"
#include "tests/kernels/simd_cases.h"
#include "tests/math/sweep.h"

using namespace vkmoe;

TEST_CASE("the optimiser has the scalar twins' bits on every instruction set", "[optimizer][simd]") {
    const Kernels& k = kernels();
    CHECK(test::differenceOnAnyTarget({&k.adamw, &k.grad_squares, &k.round_panels}) == "");
}

namespace {

constexpr uint32_t kWeights = 20011;  // whole groups of vectors, and a rest

// A few steps of the last bit around x, of either sign.
float near(double x, test::Random& random) {
    uint32_t bits = floatBitsToUint(float(x)) + random.below(9) - 4;
    return uintBitsToFloat(bits | (random.bits() & 0x80000000u));
}

// The tensors of a step. What products, quotients and sums become lies around 2^-100, where the state rule makes zero;
// some are larger, and a few may not be stored.
struct Tensors {
    std::vector<float> grads, weights, first, second;
    std::vector<uint32_t> status = std::vector<uint32_t>(2);

    Tensors(const Adamw& p, uint32_t seed) {
        test::Random random(seed);
        auto any = [&](int least, int most) { return uintBitsToFloat(random.between(least, most)); };
        auto over = [](float x) { return x == 0 ? 1.0 : double(x); };
        const double scales[] = {1, 1 / double(p.grad_scale), 1 / (double(p.grad_scale) * double(p.clip))};
        for (uint32_t i = 0; i < kWeights; ++i) {
            const bool edge = i % 2 == 0;
            const double rule = 0x1p-100;
            grads.push_back(
                edge ? near(i % 4 == 0 ? rule / over(p.one_minus_beta1) : std::sqrt(rule / over(p.one_minus_beta2)),
                            random)
                     : any(i % 3 == 0 ? -104 : -60, i % 3 == 0 ? -94 : -40));
            first.push_back(edge ? near(rule / over(p.beta1), random) : any(-106, i % 5 == 0 ? 3 : -90));
            second.push_back(
                std::abs(i % 8 < 4 ? near(rule / over(p.beta2), random) : any(-106, i % 5 == 0 ? 3 : -90)));
            weights.push_back(i % 7 < 3 ? near(rule / over(p.weight_decay), random) : any(-104, 3));
            if (i % 11 == 0) second.back() = 1;  // quotients around 2^-100
            if (i % 13 == 0) first.back() = grads.back() = 0;
            if (i % 5 == 0) grads.back() = near(rule * scales[i % 3], random);
            if (i % 7 == 0) grads.back() = float(double(grads.back()) * scales[2]);
            if (i % 997 == 0) weights.back() = uintBitsToFloat(random.bits());
            if (i % 1499 == 0) grads.back() = uintBitsToFloat(random.bits());
            if (i % 1999 == 0) first.back() = uintBitsToFloat(random.bits());
            if (i % 2503 == 0) second.back() = uintBitsToFloat(random.bits() & 0x7fffffffu);
        }
    }

    Adamw at(Adamw p) {
        p.grads = {grads.data()};
        p.weights = {weights.data()};
        p.first = {first.data()};
        p.second = {second.data()};
        p.status = {status.data()};
        p.count = kWeights;
        return p;
    }
};

Adamw rates(float beta1, float beta2, float rate, float decay, float epsilon, float correction) {
    Adamw p{};
    p.grad_scale = p.clip = 1;
    p.beta1 = beta1;
    p.one_minus_beta1 = 1 - beta1;
    p.beta2 = beta2;
    p.one_minus_beta2 = 1 - beta2;
    p.learning_rate = rate;
    p.weight_decay = decay;
    p.epsilon = epsilon;
    p.correction1 = p.correction2 = correction;
    return p;
}

}  // namespace

TEST_CASE("AdamW's zeros are the state rule's, whoever makes them", "[optimizer][simd]") {
    std::vector<Adamw> all{rates(0.9f, 0.999f, 0.001f, 0, 1e-8f, 1),
                           rates(0.9f, 0.999f, 0.001f, 0.01f, 1e-8f, 10),
                           rates(0, 0.5f, 1, 1, 1, 1000),
                           rates(0.5f, 0, 0.25f, 0.125f, 0x1p-40f, 3),
                           rates(1, 1, 0x1p-50f, 0x1p-59f, 1e-8f, 2),
                           rates(0.9f, 0.999f, 0.001f, 0.01f, 1e-30f, 10),
                           rates(0.9f, 0.999f, 100, 0.01f, 1e-8f, 10),
                           rates(0x1p-80f, 0.999f, 0.001f, 2, 0, 10)};
    all.push_back(all[1]);
    all.back().grad_scale = 0.125f;
    all.back().clip = 0.3f;
    all.push_back(all[0]);
    all.back().grad_scale = 0x1p60f;
    all.back().clip = 0x1p-70f;
    all.push_back(all[0]);
    all.back().grad_scale = 0x1p-109f;
    all.push_back(all[0]);
    all.back().clip = 0x1p-109f;
    const uint32_t seed = Catch::getSeed();
    for (size_t i = 0; i < all.size(); ++i)
        for (int64_t target : test::SimdTarget::all()) {
            test::SimdTarget use(target);
            Tensors expected(all[i], seed + uint32_t(i)), got(all[i], seed + uint32_t(i));
            const Constants c{};
            const Groups groups{0, ceilDiv(kWeights, kWorkgroup)};
            cpu::adamw(expected.at(all[i]), c, groups);
            simd::adamw(got.at(all[i]), c, groups);
            INFO(fmt::format("{}, rates {}, seed {}", hwy::TargetName(target), i, seed));
            auto same = [](const std::vector<float>& a, const std::vector<float>& b) {
                return std::equal(a.begin(), a.end(), b.begin(), [](float x, float y) {
                    return floatBitsToUint(x) == floatBitsToUint(y) || (std::isnan(x) && std::isnan(y));
                });
            };
            CHECK(same(got.first, expected.first));
            CHECK(same(got.second, expected.second));
            CHECK(same(got.weights, expected.weights));
            CHECK(got.status == expected.status);
        }
}
