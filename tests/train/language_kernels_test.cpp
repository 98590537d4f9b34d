// The language model's kernels against formulas in double precision, and those formulas' gradients against central
// differences.
//
// Bounds: every rounding moves a result by 2^-24 of the terms it is made of, and a sum in order R32 rounds each of its
// terms at most terms(n) times; 2^-36 on top is what the operand rule may drop.
#include <fmt/format.h>

#include <catch2/catch_test_macros.hpp>
#include <cmath>
#include <functional>
#include <numeric>
#include <random>
#include <span>

#include "tests/all_groups.h"

using namespace vkmoe;

namespace {

using Floats = std::vector<float>;
using Doubles = std::vector<double>;
using Words = std::vector<uint32_t>;

constexpr double kRounding = 0x1p-24, kDropped = 0x1p-36, kEpsilon = 1e-5;
F32 of(Floats& values) { return {values.data()}; }
U32 of(Words& words) { return {words.data()}; }

double terms(uint32_t n) { return std::min(n, 32u) + std::ceil(n / 32.0); }

// A sum and the size of its terms.
struct Sum {
    double value = 0, size = 0;
    void add(double term) {
        value += term;
        size += std::abs(term);
    }
};

class Random {
public:
    explicit Random(uint32_t seed) : random_(seed) {}
    uint32_t below(uint32_t bound) { return random_() % bound; }
    Floats floats(size_t count, float scale = 1) {
        Floats out(count);
        for (float& x : out) x = float(int32_t(random_() & ~255u)) * 0x1p-31f * scale;
        return out;
    }
    // Positions in sequences of random lengths.
    Words positions(uint32_t tokens) {
        Words out(tokens);
        for (uint32_t t = 1; t < tokens; ++t) out[t] = below(9) == 0 ? 0 : out[t - 1] + 1;
        return out;
    }

private:
    std::mt19937 random_;
};

// The largest error in units of roundings * 2^-24 * size: at most 1.
void checkSums(std::span<const float> got, const std::vector<Sum>& expected, double roundings) {
    REQUIRE(got.size() == expected.size());
    double worst = 0;
    for (size_t i = 0; i < got.size(); ++i) {
        double bound = roundings * kRounding * expected[i].size + kDropped;
        double error = std::abs(got[i] - expected[i].value) / bound;
        worst = error >= 0 ? std::max(worst, error) : INFINITY;  // NaN is no small error
    }
    CHECK(worst <= 1);
}

// `gradient` against differences of `loss`, to 1e-7 of the largest.
void checkDifferences(const Floats& at, const std::vector<Sum>& gradient,
                      const std::function<double(const Doubles&)>& loss) {
    Doubles x(at.begin(), at.end());
    double largest = 1e-3, worst = 0, h = 1e-5;
    for (size_t i = 0; i < x.size(); ++i) {
        double before = x[i];
        x[i] = before + h;
        double above = loss(x);
        x[i] = before - h;
        double below = loss(x);
        x[i] = before;
        worst = std::max(worst, std::abs((above - below) / (2 * h) - gradient[i].value));
        largest = std::max(largest, std::abs(gradient[i].value));
    }
    CHECK(worst <= 1e-7 * largest);
}

// What a gradient of ones times `up` flows from.
double weighted(const Doubles& out, const Floats& up) {
    return std::inner_product(out.begin(), out.end(), up.begin(), 0.0);
}

// ---- RMSNorm --------------------------------------------------------------------------------------------------------

double rootOf(const double* x, uint32_t dim) {
    return std::sqrt(std::inner_product(x, x + dim, x, 0.0) / dim + kEpsilon);
}

Doubles norm(const Doubles& x, const Doubles& weight) {
    Doubles y(x.size());
    uint32_t dim = uint32_t(weight.size());
    for (size_t i = 0; i < x.size(); ++i) y[i] = weight[i % dim] * x[i] / rootOf(&x[i / dim * dim], dim);
    return y;
}

struct NormGradients {
    std::vector<Sum> x, weight;
};

NormGradients normGradients(const Doubles& x, const Doubles& weight, const Floats& grad_y) {
    uint32_t dim = uint32_t(weight.size());
    NormGradients g{std::vector<Sum>(x.size()), std::vector<Sum>(dim)};
    for (size_t row = 0; row < x.size(); row += dim) {
        double r = rootOf(&x[row], dim);
        Sum a;
        for (uint32_t c = 0; c < dim; ++c) a.add(double(grad_y[row + c]) * weight[c] * x[row + c]);
        for (uint32_t c = 0; c < dim; ++c) {
            g.x[row + c].add(weight[c] * grad_y[row + c] / r);
            g.x[row + c].value -= x[row + c] * a.value / (dim * r * r * r);
            g.x[row + c].size += std::abs(x[row + c]) * a.size / (dim * r * r * r);
            g.weight[c].add(grad_y[row + c] * x[row + c] / r);
        }
    }
    return g;
}

void checkNorm(uint32_t tokens, uint32_t dim, float scale, uint32_t seed) {
    INFO(fmt::format("{} tokens, {} wide, x up to {}, seed {}", tokens, dim, scale, seed));
    Random random(seed);
    size_t count = size_t{tokens} * dim;
    Floats x = random.floats(count, scale), weight = random.floats(dim), grad_y = random.floats(count);
    Floats residual = random.floats(count), before = random.floats(dim), y(count), roots(tokens), grad_x(count);
    Floats grad_weight = before;
    Words status(2);
    cpu::rms_norm({of(x), of(weight), of(y), of(roots), of(status), tokens, dim, float(kEpsilon), 0}, {},
                  test::kAllGroups);
    cpu::rms_norm_backward(
        {of(x), of(weight), of(roots), of(grad_y), of(residual), of(grad_x), of(status), tokens, dim}, {},
        test::kAllGroups);
    cpu::rms_norm_weight_grad({of(x), of(roots), of(grad_y), of(grad_weight), of(status), tokens, dim}, {},
                              test::kAllGroups);
    CHECK(status == Words{0, 0});

    Doubles dx(x.begin(), x.end()), dw(weight.begin(), weight.end()), expected_y = norm(dx, dw);
    std::vector<Sum> sums(count);
    for (size_t i = 0; i < count; ++i) sums[i].add(expected_y[i]);
    double root = terms(dim) / 2 + 2;  // roundings of 1 / root
    checkSums(y, sums, root + 3);
    NormGradients g = normGradients(dx, dw, grad_y);
    if (count < 400 && dim > 5 && scale == 1) {
        checkDifferences(x, g.x, [&](const Doubles& at) { return weighted(norm(at, dw), grad_y); });
        checkDifferences(weight, g.weight, [&](const Doubles& at) { return weighted(norm(dx, at), grad_y); });
    }
    for (size_t i = 0; i < count; ++i) g.x[i].add(residual[i]);
    for (uint32_t c = 0; c < dim; ++c) g.weight[c].add(before[c]);
    checkSums(grad_x, g.x, terms(dim) + 3 * root + 8);
    checkSums(grad_weight, g.weight, terms(tokens) + root + 4);
}

// ---- the causal convolution -----------------------------------------------------------------------------------------

struct Conv {
    uint32_t tokens, dim, width;
    Words positions;

    // Calls body(output, input, weight) for every product.
    template <class Body>
    void each(const Body& body) const {
        for (uint32_t t = 0; t < tokens; ++t)
            for (uint32_t c = 0; c < dim; ++c)
                for (uint32_t j = 0; j < width && j <= positions[t]; ++j)
                    body(t * dim + c, (t - j) * dim + c, c * width + j);
    }
    double loss(const Doubles& n, const Doubles& weight, const Floats& up) const {
        double sum = 0;
        each([&](uint32_t o, uint32_t i, uint32_t w) { sum += double(up[o]) * weight[w] * n[i]; });
        return sum;
    }
    Words remaining() const {
        Words out(tokens);
        for (uint32_t t = tokens; t-- > 1;) out[t - 1] = positions[t] != 0 ? out[t] + 1 : 0;
        return out;
    }
};

void checkConv(uint32_t tokens, uint32_t dim, uint32_t width, uint32_t seed) {
    INFO(fmt::format("{} tokens, {} wide, {} taps, seed {}", tokens, dim, width, seed));
    Random random(seed);
    Conv conv{tokens, dim, width, random.positions(tokens)};
    size_t count = size_t{tokens} * dim;
    Floats x = random.floats(count), n = random.floats(count), weight = random.floats(size_t{dim} * width), u(count);
    Floats grad_u = random.floats(count), grad_n(count), before = random.floats(weight.size()), grad = before;
    Words status(2), remaining = conv.remaining();
    cpu::causal_conv({of(x), of(n), of(weight), of(conv.positions), of(u), of(status), tokens, dim, width, 0}, {},
                     test::kAllGroups);
    cpu::causal_conv_backward({of(grad_u), of(weight), of(remaining), of(grad_n), of(status), tokens, dim, width, 0},
                              {}, test::kAllGroups);
    cpu::causal_conv_weight_grad({of(grad_u), of(n), of(conv.positions), of(grad), of(status), tokens, dim, width, 0},
                                 {}, test::kAllGroups);
    CHECK(status == Words{0, 0});

    std::vector<Sum> sums(count), by_n(count), by_weight(weight.size());
    for (size_t i = 0; i < count; ++i) sums[i].add(x[i]);
    conv.each([&](uint32_t o, uint32_t i, uint32_t w) {
        sums[o].add(double(weight[w]) * n[i]);
        by_n[i].add(double(weight[w]) * grad_u[o]);
        by_weight[w].add(double(grad_u[o]) * n[i]);
    });
    Doubles dn(n.begin(), n.end()), dw(weight.begin(), weight.end());
    if (count < 400) {
        checkDifferences(n, by_n, [&](const Doubles& at) { return conv.loss(at, dw, grad_u); });
        checkDifferences(weight, by_weight, [&](const Doubles& at) { return conv.loss(dn, at, grad_u); });
    }
    for (size_t i = 0; i < before.size(); ++i) by_weight[i].add(before[i]);
    checkSums(u, sums, terms(width) + 2);
    checkSums(grad_n, by_n, terms(width) + 1);
    checkSums(grad, by_weight, terms(tokens) + 2);
}

// ---- cross entropy --------------------------------------------------------------------------------------------------

double crossEntropy(const double* logits, uint32_t vocab, uint32_t target) {
    double largest = *std::max_element(logits, logits + vocab), sum = 0;
    for (uint32_t v = 0; v < vocab; ++v) sum += std::exp(logits[v] - largest);
    return std::log(sum) + largest - logits[target];
}

double entropyLoss(const Doubles& logits, const Words& targets, const Floats& weights) {
    double loss = 0;
    uint32_t vocab = uint32_t(logits.size() / targets.size());
    for (size_t t = 0; t < targets.size(); ++t)
        if (targets[t] != kAbsent) loss += weights[t] * crossEntropy(&logits[t * vocab], vocab, targets[t]);
    return loss;
}

// Runs the kernel in place; without gradients it leaves the logits alone.
Floats runEntropy(Floats& logits, Words targets, Floats weights, bool gradients) {
    Words status(2);
    uint32_t tokens = uint32_t(targets.size());
    Floats losses(tokens, NAN);
    cpu::cross_entropy({of(logits), of(targets), of(weights), of(logits), of(losses), of(status), tokens,
                        uint32_t(logits.size() / tokens)},
                       {.gradients = gradients}, test::kAllGroups);
    CHECK(status == Words{0, 0});
    return losses;
}

void checkEntropy(uint32_t tokens, uint32_t vocab, float scale, uint32_t seed) {
    INFO(fmt::format("{} tokens, vocabulary {}, logits up to {}, seed {}", tokens, vocab, scale, seed));
    Random random(seed);
    Floats logits = random.floats(size_t{tokens} * vocab, scale), weights = random.floats(tokens), grad = logits;
    Words targets(tokens);
    for (auto& target : targets) target = random.below(5) == 0 ? kAbsent : random.below(vocab);
    Floats losses = runEntropy(grad, targets, weights, true), unchanged = logits;
    CHECK(runEntropy(unchanged, targets, weights, false) == losses);
    CHECK(unchanged == logits);

    Doubles dl(logits.begin(), logits.end());
    std::vector<Sum> expected(tokens), gradient(grad.size());
    for (uint32_t t = 0; t < tokens; ++t) {
        if (targets[t] == kAbsent) continue;
        const double* row = &dl[size_t{t} * vocab];
        double log_sum = crossEntropy(row, vocab, targets[t]) + row[targets[t]];
        expected[t].add(log_sum - row[targets[t]]);
        expected[t].size += 1;
        for (uint32_t v = 0; v < vocab; ++v) {
            gradient[size_t{t} * vocab + v].add(weights[t] * std::exp(row[v] - log_sum));
            if (v == targets[t]) gradient[size_t{t} * vocab + v].add(-weights[t]);
        }
    }
    if (grad.size() < 400 && scale < 10)
        checkDifferences(logits, gradient, [&](const Doubles& at) { return entropyLoss(at, targets, weights); });
    double exponentials = 2 * scale + 3;  // roundings of exp(l - m): those of its argument, and its own
    checkSums(losses, expected, terms(vocab) + exponentials + 3);
    checkSums(grad, gradient, terms(vocab) + 2 * exponentials + 3);
}

}  // namespace

TEST_CASE("RMSNorm and its gradients follow the formula", "[backward]") {
    uint32_t seed = 1;
    for (uint32_t dim : {1u, 7u, 31u, 32u, 33u, 67u, 1031u})
        for (uint32_t tokens : {1u, 5u, 33u, 67u})
            for (float scale : {1.0f, 1e-3f, 1e6f}) checkNorm(tokens, dim, scale, seed++);
}

TEST_CASE("the causal convolution and its gradients follow the formula", "[backward]") {
    uint32_t seed = 1;
    for (uint32_t dim : {1u, 7u, 33u, 64u})
        for (uint32_t tokens : {1u, 31u, 32u, 33u, 97u})
            for (uint32_t width : {1u, 3u, 4u, 37u}) checkConv(tokens, dim, width, seed++);
}

TEST_CASE("cross entropy and its gradient follow the formula", "[backward]") {
    uint32_t seed = 1;
    for (uint32_t vocab : {1u, 31u, 32u, 33u, 67u, 512u, 8191u, 8192u, 8193u, 50257u})
        for (float scale : {1.0f, 8.0f, 200.0f}) checkEntropy(vocab > 1000 ? 2 : 5, vocab, scale, seed++);
}

TEST_CASE("embeddings come from panels and their gradients go there", "[backward]") {
    const uint32_t vocab = 37, dim = 19, tokens = 101, panels = 3;
    Random random(5);
    Floats table = random.floats(size_t{vocab} * dim), x(size_t{tokens} * dim);
    auto word = [&](uint32_t v, uint32_t c) { return v / 16 * dim * 16 + c * 16 + v % 16; };
    Words weight(panels * dim * 16), ids(tokens), offsets, positions;
    for (uint32_t v = 0; v < vocab; ++v)
        for (uint32_t c = 0; c < dim; ++c) weight[word(v, c)] = std::bit_cast<uint32_t>(table[v * dim + c]);
    for (auto& id : ids) id = random.below(3) == 0 ? 36 : random.below(vocab);
    cpu::embed_tokens({of(ids), of(weight), of(x), tokens, dim}, {}, test::kAllGroups);

    Words distinct(vocab), grad = weight, status(2);
    std::iota(distinct.rbegin(), distinct.rend(), 0u);  // any order will do
    std::vector<Sum> expected(vocab * dim);
    for (uint32_t v : distinct) {
        offsets.push_back(uint32_t(positions.size()));
        for (uint32_t c = 0; c < dim; ++c) expected[v * dim + c].add(table[v * dim + c]);
        for (uint32_t t = 0; t < tokens; ++t)
            if (ids[t] == v) positions.push_back(t);
    }
    offsets.push_back(tokens);
    for (uint32_t i = 0; i < tokens * dim; ++i) {
        REQUIRE(x[i] == table[ids[i / dim] * dim + i % dim]);
        expected[ids[i / dim] * dim + i % dim].add(x[i]);
    }
    cpu::embed_backward({of(x), of(distinct), of(offsets), of(positions), of(grad), of(status), vocab, dim}, {},
                        test::kAllGroups);
    Floats got(vocab * dim);
    for (uint32_t i = 0; i < vocab * dim; ++i) got[i] = std::bit_cast<float>(grad[word(i / dim, i % dim)]);
    checkSums(got, expected, terms(tokens) + 1);
    CHECK(status == Words{0, 0});
}
