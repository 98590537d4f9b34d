// The SIMD forms of the router's kernels against the scalar twins on every instruction set: the same bits for any
// logits, and the same count of what may not be stored.
#include <fmt/format.h>

#include <catch2/catch_get_random_seed.hpp>
#include <catch2/catch_test_macros.hpp>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>

#include "engine/cpu/simd/panel_tile.h"
#include "engine/cpu/simd/softmax.h"
#include "engine/cpu/twins.h"
#include "host/cpu/float_environment.h"
#include "tests/bits.h"
#include "tests/kernels/simd_cases.h"

using namespace vkmoe;

namespace {

using Floats = std::vector<float>;
using Random = std::mt19937;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Rows of logits that softmaxes do different things with.
enum class Spread { usual, equal, wide, lowest_quotients, zeros, special };

float logit(Spread spread, Random& random) {
    const float unit = float(random()) * 0x1p-32f;
    switch (spread) {
        case Spread::usual:
            return unit * 8 - 4;
        case Spread::equal:
            return -2.5f;
        case Spread::wide:  // exponentials from 1 to 0
            return unit * 200 - 100;
        case Spread::lowest_quotients:  // between zero and the smallest normal number, after division by a sum above 1
            return random() % 3 == 0 ? 5 - 86 - unit : 5 - unit;
        case Spread::zeros:
            return random() % 2 == 0 ? 0.0f : -0.0f;
        default: {
            const float some[] = {NAN, kInfinity, -kInfinity, 3e38f, -3e38f, 1, 0};
            return some[random() % std::size(some)];
        }
    }
}

Floats logitsOf(Spread spread, size_t count, Random& random) {
    Floats values(count);
    for (float& v : values) v = logit(spread, random);
    return values;
}

// A kernel's numbers, one form of which runs on them.
struct RouterRows {
    uint32_t tokens = 19, experts = 5, top_k = 2;
    Floats logits, probabilities, gates, grad, out;
    Words selected, counts, keys, status = Words(2);

    RouterRows(uint32_t experts_, uint32_t top_k_, Spread spread, Random& random) : experts(experts_), top_k(top_k_) {
        logits = logitsOf(spread, size_t{tokens} * experts, random);
        grad = logitsOf(Spread::usual, size_t{tokens} * experts, random);
        probabilities = out = Floats(logits.size());
        gates = Floats(size_t{tokens} * top_k);
        keys = Words(logits.size());
        for (uint32_t t = 0; t < tokens; ++t)  // now and then one that is absent
            for (uint32_t j = 0; j < top_k; ++j)
                selected.push_back(random() % 9 == 0 ? kAbsent : (uint32_t(random()) % experts + j) % experts);
        for (uint32_t e = 0; e < experts; ++e) counts.push_back(uint32_t(random()) % 40);
    }

    // All that a kernel may have changed.
    Words left() const {
        Words all = status;
        for (const Words* words : {&selected, &keys}) all.insert(all.end(), words->begin(), words->end());
        for (const Floats* floats : {&probabilities, &gates, &grad, &out})
            for (float f : *floats) all.push_back(floatBitsToUint(f));
        return all;
    }
};

using Form = CpuKernel KernelCode::*;

template <class Params>
void call(const KernelCode& code, Form form, const Params& params, const Constants& c) {
    FloatEnvironment environment;
    (code.*form)(&params, words(c), {0, 1000});
}

Words routed(Form form, RouterRows r, const Constants& c) {
    call(kernels().route_topk, form,
         RouteTopk{.logits = {r.logits.data()},
                   .selection_bias = {r.grad.data()},
                   .selected = {r.selected.data()},
                   .gates = {r.gates.data()},
                   .probabilities = {r.probabilities.data()},
                   .keys = {r.keys.data()},
                   .scores = {r.out.data()},
                   .status = {r.status.data()},
                   .tokens = r.tokens,
                   .experts = r.experts,
                   .top_k = r.top_k,
                   .groups = 1,
                   .groups_kept = 1,
                   .routed_scale = 3e20f},
         c);
    return r.left();
}

Words differentiated(Form form, RouterRows r, const Constants& c) {
    call(kernels().route_topk_backward, form,
         RouteTopkBackward{.logits = {r.logits.data()},
                           .selected = {r.selected.data()},
                           .grad_gates = {r.grad.data()},
                           .grad_logits = {r.out.data()},
                           .status = {r.status.data()},
                           .tokens = r.tokens,
                           .experts = r.experts,
                           .top_k = r.top_k,
                           .routed_scale = 1},
         c);
    return r.left();
}

Words balanced(Form form, RouterRows r, const Constants& c, float balance, float z) {
    call(kernels().router_loss_backward, form,
         RouterLossBackward{.logits = {r.logits.data()},
                            .counts = {r.counts.data()},
                            .grad_logits = {r.grad.data()},
                            .status = {r.status.data()},
                            .tokens = r.tokens,
                            .experts = r.experts,
                            .assignments = std::accumulate(r.counts.begin(), r.counts.end(), 0u),
                            .balance_scale = balance,
                            .z_scale = z},
         c);
    return r.left();
}

Words erred(Form form, RouterRows r, const Constants& c) {
    Floats losses(r.tokens);
    call(kernels().squared_error, form,
         SquaredError{.out_ = {r.logits.data()},
                      .target = {r.grad.data()},
                      .grad_out = {r.out.data()},
                      .losses = {losses.data()},
                      .status = {r.status.data()},
                      .tokens = r.tokens,
                      .model_dim = r.experts},
         c);
    Words all = r.left();
    for (float loss : losses) all.push_back(floatBitsToUint(loss));
    return all;
}

bool same(float a, float b) { return a == b || (std::isnan(a) && std::isnan(b)); }

// As softmaxOf says, row by row. A largest of zero may have either sign.
bool rightSoftmax(const Floats& logits, uint32_t rows, uint32_t count) {
    FloatEnvironment environment;
    Floats got(logits.size()), expected(logits.size());
    Softmax found[simd::kSoftmaxRows];
    simd::softmaxRows(logits.data(), rows, count, got.data(), found);
    for (uint32_t row = 0; row < rows; ++row) {
        const Softmax right =
            softmaxOf(logits.data() + size_t{row} * count, count, expected.data() + size_t{row} * count);
        if (!same(found[row].largest, right.largest) || !same(found[row].sum, right.sum)) return false;
    }
    return test::sameBits(got, expected);
}

}  // namespace

TEST_CASE("the router's SIMD forms have the scalar bits on every instruction set", "[kernels][simd]") {
    const Kernels& k = kernels();
    CHECK(test::differenceOnAnyTarget(
              {&k.route_topk, &k.route_topk_backward, &k.router_loss_backward, &k.squared_error}) == "");
}

TEST_CASE("softmaxes of rows have the scalar bits for any logits", "[kernels][simd]") {
    Random random(Catch::getSeed());
    for (Spread spread :
         {Spread::usual, Spread::equal, Spread::wide, Spread::lowest_quotients, Spread::zeros, Spread::special})
        for (uint32_t count : {1u, 2u, 7u, 8u, 15u, 16u, 17u, 31u, 32u, 33u, 64u, 97u, 1024u})
            for (uint32_t rows : {1u, 2u, 15u, 16u}) {
                Floats logits = logitsOf(spread, size_t{rows} * count, random);
                if (spread == Spread::special)  // rows beside them are not
                    for (size_t i = 0; i < logits.size(); ++i)
                        if (i / count % 3 != 0 && random() % 40 != 0) logits[i] = 1;
                for (int64_t target : test::SimdTarget::all()) {
                    test::SimdTarget chosen(target);
                    INFO(fmt::format("spread {}, {} rows of {}, {}", int(spread), rows, count, simd::targetName()));
                    CHECK(rightSoftmax(logits, rows, count));
                }
            }
}

TEST_CASE("sigmoids have the scalar bits for any logits", "[kernels][simd]") {
    Random random(Catch::getSeed());
    for (Spread spread : {Spread::usual, Spread::wide, Spread::zeros, Spread::special}) {
        const Floats logits = logitsOf(spread, 1001, random);
        Floats expected(logits.size()), got(logits.size());
        std::transform(logits.begin(), logits.end(), expected.begin(), exact_sigmoid);
        for (int64_t target : test::SimdTarget::all()) {
            test::SimdTarget chosen(target);
            INFO(fmt::format("spread {}, {}", int(spread), simd::targetName()));
            simd::sigmoids(logits.data(), logits.size(), got.data());
            CHECK(test::sameBits(got, expected));
        }
    }
}

TEST_CASE("what the router's kernels do with odd logits is the same in SIMD forms", "[kernels][simd]") {
    Random random(Catch::getSeed());
    const Form cpu = &KernelCode::cpu, simd = &KernelCode::simd;
    for (auto [experts, top_k] : {std::pair{1u, 1u}, {5u, 2u}, {16u, 16u}, {33u, 7u}, {300u, 3u}})
        for (Spread spread : {Spread::usual, Spread::wide, Spread::lowest_quotients, Spread::zeros, Spread::special}) {
            const RouterRows given(experts, top_k, spread, random);
            const auto same = [&](const auto& ran) {
                const Words expected = ran(cpu);
                for (int64_t target : test::SimdTarget::all()) {
                    test::SimdTarget chosen(target);
                    INFO(fmt::format("{} experts, spread {}, {}", experts, int(spread), vkmoe::simd::targetName()));
                    CHECK(ran(simd) == expected);
                }
            };
            for (uint32_t score : {kSoftmax, kSoftmaxSelected, kSigmoid}) {
                CAPTURE(score);
                const Constants plain{.score = score, .renormalize = 1, .probabilities = 1, .lanes = 8};
                const Constants biased{.score = score, .selection_bias = 1, .scaled = 1, .lanes = 64};
                const Constants kept{.score = score, .lanes = 8, .capacity = 1};
                for (const Constants& c : {plain, biased, kept})
                    same([&](Form form) { return routed(form, given, c); });
                same([&](Form form) { return differentiated(form, given, plain); });
            }
            for (float scale : {1.0f, 3e20f})
                for (float z : {0.0f, scale})
                    same([&](Form form) { return balanced(form, given, {.lanes = 8}, scale, z); });
            same([&](Form form) { return erred(form, given, {}); });
        }
}
