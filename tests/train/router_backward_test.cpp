// The gradients of the router and of its auxiliary losses against central differences of the forward formulas in
// double.
#include <fmt/format.h>

#include <catch2/catch_test_macros.hpp>
#include <random>

#include "engine/cpu/twins.h"
#include "tests/all_groups.h"
#include "tests/train/differences.h"

using namespace vkmoe;

namespace {

double logistic(double x) { return 1 / (1 + std::exp(-x)); }

std::vector<double> softmax(const std::vector<double>& logits, size_t first, size_t count) {
    std::vector<double> p(logits.begin() + ptrdiff_t(first), logits.begin() + ptrdiff_t(first + count));
    double largest = *std::max_element(p.begin(), p.end()), sum = 0;
    for (double& x : p) sum += x = std::exp(x - largest);
    for (double& x : p) x /= sum;
    return p;
}

// Some tokens' choices; every fifth entry is no expert, every seventh an expert listed before.
struct Choice {
    uint32_t T, E, K;
    std::mt19937 random;
    std::vector<float> logits, grad_gates;
    std::vector<double> exact_logits, exact_grads;
    std::vector<uint32_t> selected;
    double epsilon, scale = 2.5;

    Choice(uint32_t tokens, uint32_t experts, uint32_t top_k, double eps, uint32_t seed)
        : T(tokens), E(experts), K(top_k), random(seed), epsilon(eps) {
        for (uint32_t i = 0; i < T * E; ++i) logits.push_back(float(int32_t(random())) * 0x1p-30f);
        for (uint32_t a = 0; a < T * K; ++a) {
            grad_gates.push_back(float(int32_t(random())) * 0x1p-31f);
            selected.push_back(a % 5 == 4 ? E + a : a % 7 == 6 ? selected.back() : random() % E);
        }
        exact_logits.assign(logits.begin(), logits.end());
        exact_grads.assign(grad_gates.begin(), grad_gates.end());
    }

    // Scores of one token's ranks; 0 where there is no expert.
    std::vector<double> scores(uint32_t t, uint32_t score) const {
        std::vector<double> all = softmax(exact_logits, size_t{t} * E, E), out;
        for (uint32_t a = t * K; a < (t + 1) * K; ++a) {
            double x = selected[a] < E ? exact_logits[size_t{t} * E + selected[a]] : 0;
            double s = score == kSigmoid ? logistic(x) : score == kSoftmaxSelected ? std::exp(x) : all[selected[a] % E];
            out.push_back(selected[a] < E ? s : 0);
        }
        return out;
    }

    // Sum of gates times their gradients.
    double loss(const Constants& c) const {
        double total = 0;
        for (uint32_t t = 0; t < T; ++t) {
            std::vector<double> gates = scores(t, c.score);
            double sum = 0;
            for (double g : gates) sum += g;
            if (c.score != kSoftmaxSelected) sum += epsilon;
            bool divided = c.score == kSoftmaxSelected || c.renormalize != 0;
            for (uint32_t m = 0; m < K; ++m)
                if (selected[t * K + m] < E)
                    total += gates[m] / (divided ? sum : 1) * (c.scaled != 0 ? scale : 1) * exact_grads[t * K + m];
        }
        return total;
    }

    std::vector<float> backward(const Constants& c) {
        std::vector<float> out(logits.size(), NAN);
        uint32_t status[2] = {};
        cpu::route_topk_backward({.logits = {logits.data()},
                                  .selected = {selected.data()},
                                  .grad_gates = {grad_gates.data()},
                                  .grad_logits = {out.data()},
                                  .status = {status},
                                  .tokens = T,
                                  .experts = E,
                                  .top_k = K,
                                  .renormalize_epsilon = float(epsilon),
                                  .routed_scale = float(scale)},
                                 c, test::kAllGroups);
        CHECK(status[0] == 0);
        return out;
    }
};

std::vector<Constants> allForms() {
    std::vector<Constants> forms;
    for (uint32_t score : {kSoftmax, kSoftmaxSelected, kSigmoid})
        for (uint32_t renormalize : {0u, 1u})
            for (uint32_t scaled : {0u, 1u})
                forms.push_back({.score = score, .renormalize = renormalize, .scaled = scaled, .lanes = 8});
    return forms;
}

}  // namespace

TEST_CASE("gradients of gates reach the logits, for every score, division and scale", "[backward]") {
    struct {
        uint32_t T, E, K;
    } sizes[] = {{2, 1, 1}, {3, 3, 3}, {2, 8, 2}, {2, 31, 4}, {2, 33, 9}, {1, 67, 40}};
    for (const auto& size : sizes)
        for (double epsilon : {0.0, 0.25})
            for (const Constants& c : allForms()) {
                Choice choice(size.T, size.E, size.K, epsilon, size.E);
                auto expected = test::gradient(choice.exact_logits, [&] { return choice.loss(c); });
                INFO(fmt::format("T{} E{} k{} epsilon {} score {} renormalize {} scaled {} seed {}", size.T, size.E,
                                 size.K, epsilon, c.score, c.renormalize, c.scaled, size.E));
                // gradients are below 2.5 * (terms of one expert); each is a few roundings, and sums of 40
                CHECK(test::worstOf(choice.backward(c), expected) < 2e-6);
            }
}

TEST_CASE("gradients pass through tiny scores, or are tiny, where the scale of gates makes up for it", "[backward]") {
    constexpr double kScale = 1e14, kOffset = 32;  // a sigmoid of -32 is 1.3e-14
    for (uint32_t score : {kSigmoid, kSoftmax})
        for (bool tiny_scores : {true, false}) {
            Choice choice(3, 9, 3, 0, 21);
            choice.scale = kScale;
            for (uint32_t i = 0; i < choice.logits.size(); ++i) {
                const bool away = i % 9 == 0;  // of a softmax this one has all, and is not chosen
                if (tiny_scores) choice.logits[i] -= float(away && score == kSoftmax ? 0 : kOffset);
                choice.exact_logits[i] = choice.logits[i];
            }
            for (uint32_t a = 0; a < choice.selected.size(); ++a) {
                if (choice.selected[a] == 0) choice.selected[a] = 1;
                if (!tiny_scores) choice.grad_gates[a] *= float(1 / kScale);
                choice.exact_grads[a] = choice.grad_gates[a];
            }
            const Constants c{.score = score, .scaled = 1, .lanes = 8};
            auto expected = test::gradient(choice.exact_logits, [&] { return choice.loss(c); });
            CAPTURE(score, tiny_scores);
            CHECK(std::fabs(*std::max_element(expected.begin(), expected.end())) > 0.01);
            CHECK(test::worstOf(choice.backward(c), expected) < 1e-5);
        }
}

TEST_CASE("no gradient passes where the chosen scores sum to zero", "[backward]") {
    for (uint32_t score : {kSoftmax, kSigmoid}) {
        Choice choice(2, 5, 2, 0, 11);
        for (uint32_t i = 0; i < 10; ++i) choice.logits[i] = i % 5 == 0 ? 900.0f : -1000.0f;
        choice.selected = {1, 2, 4, 3};
        for (float g : choice.backward({.score = score, .renormalize = 1, .lanes = 64})) CHECK(g == 0);
    }
}

TEST_CASE("a token without experts gets no gradient", "[backward]") {
    for (const Constants& c : allForms()) {
        Choice choice(1, 5, 2, 0, 12);
        choice.selected = {5, 1000};
        for (float g : choice.backward(c)) CHECK(g == 0);
    }
}

TEST_CASE("gradients of the balance loss and of the z-loss are derivatives", "[backward]") {
    for (uint32_t E : {1u, 2u, 31u, 32u, 33u, 97u})
        for (auto [balance, z] : {std::pair{0.5f, 0.0f}, {0.0f, 0.125f}, {0.5f, 0.125f}, {0.0f, 0.0f}}) {
            const uint32_t T = 3;
            std::mt19937 random(E);
            std::vector<float> logits, grad;
            std::vector<uint32_t> counts;
            uint32_t assignments = 0, status[2] = {};
            for (uint32_t i = 0; i < T * E; ++i) logits.push_back(float(int32_t(random())) * 0x1p-29f);
            for (uint32_t i = 0; i < T * E; ++i) grad.push_back(float(int32_t(random())) * 0x1p-31f);
            for (uint32_t e = 0; e < E; ++e) assignments += counts.emplace_back(random() % 50);
            std::vector<double> exact(logits.begin(), logits.end()), start(grad.begin(), grad.end());
            auto loss = [&] {
                double sum = 0;
                for (uint32_t t = 0; t < T; ++t) {
                    auto p = softmax(exact, size_t{t} * E, E);
                    double lse = 0;
                    for (uint32_t e = 0; e < E; ++e) {
                        sum += balance * p[e] * counts[e] / std::max(assignments, 1u);
                        sum += start[t * E + e] * exact[t * E + e];
                        lse += std::exp(exact[t * E + e]);
                    }
                    sum += z / 2.0 * std::pow(std::log(lse), 2);
                }
                return sum;
            };
            auto expected = test::gradient(exact, loss);
            auto before = grad;
            cpu::router_loss_backward({.logits = {logits.data()},
                                       .counts = {counts.data()},
                                       .grad_logits = {grad.data()},
                                       .status = {status},
                                       .tokens = T,
                                       .experts = E,
                                       .assignments = assignments,
                                       .balance_scale = balance,
                                       .z_scale = z},
                                      {.lanes = 8}, test::kAllGroups);
            INFO(fmt::format("E{} balance {} z {} seed {}", E, balance, z, E));
            CHECK(status[0] == 0);
            CHECK(test::worstOf(grad, expected) < 1e-6);
            if (balance == 0 && z == 0) CHECK(grad == before);
        }
}
