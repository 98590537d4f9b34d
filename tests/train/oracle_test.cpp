// The oracle of training against itself: its gradients are central differences of its own forward pass, for every form
// of layer; its forward pass is the one that layers are tested against.
#include "tests/train/oracle.h"

#include <catch2/catch_test_macros.hpp>
#include <cmath>
#include <functional>
#include <random>

#include "tests/moe/random_layer.h"
#include "tests/train/oracle_lm.h"

using namespace test;
using namespace vkmoe;

namespace {

constexpr double kStep = 1e-5;
constexpr double kSafe = 1e-3;     // a corner or another route this far away is not met by a difference
constexpr uint32_t kElements = 3;  // of each tensor that are tried alone; besides, all tensors move together

double unit(std::mt19937& random) { return double(int32_t(random())) * 0x1p-31; }

Doubles randomNumbers(size_t count, std::mt19937& random) {
    Doubles values(count);
    for (double& v : values) v = unit(random);
    return values;
}

// What is differentiated, where, and what the gradients are said to be.
struct Gradients {
    std::function<double()> loss;
    std::vector<std::string> names;
    std::vector<Doubles*> at;
    std::vector<const Doubles*> grads;

    void add(const std::string& name, Doubles& where, const Doubles& grad) {
        REQUIRE(where.size() == grad.size());
        names.push_back(name);
        at.push_back(&where);
        grads.push_back(&grad);
    }

    // The difference quotient where move(h) moves the arguments by h times a direction.
    template <class Move>
    double quotient(Move move) const {
        move(kStep);
        double above = loss();
        move(-2 * kStep);
        double below = loss();
        move(kStep);
        return (above - below) / (2 * kStep);
    }

    void check(std::mt19937& random) const {
        double largest = 0;
        for (const Doubles* grad : grads)
            for (double g : *grad) largest = std::max(largest, std::fabs(g));
        REQUIRE(largest > 0);
        for (size_t t = 0; t < at.size(); ++t) {
            for (uint32_t i = 0; i < kElements; ++i) {
                size_t e = random() % at[t]->size();
                double difference = quotient([&](double h) { (*at[t])[e] += h; });
                CAPTURE(names[t], e, difference, (*grads[t])[e]);
                CHECK(std::fabs(difference - (*grads[t])[e]) <= 1e-6 * std::fabs(difference) + 1e-9 * largest);
            }
        }
        std::vector<Doubles> direction;
        double slope = 0, size = 0;
        for (size_t t = 0; t < at.size(); ++t) {
            direction.push_back(randomNumbers(at[t]->size(), random));
            for (size_t e = 0; e < direction[t].size(); ++e) {
                slope += direction[t][e] * (*grads[t])[e];
                size += std::fabs(direction[t][e] * (*grads[t])[e]);
            }
        }
        double difference = quotient([&](double h) {
            for (size_t t = 0; t < at.size(); ++t)
                for (size_t e = 0; e < at[t]->size(); ++e) (*at[t])[e] += h * direction[t][e];
        });
        CAPTURE(slope, difference);
        CHECK(std::fabs(difference - slope) <= 1e-6 * size);
    }
};

double weighted(const Doubles& values, const Doubles& weights) {
    double sum = 0;
    for (size_t i = 0; i < values.size(); ++i) sum += values[i] * weights[i];
    return sum;
}

// A layer and inputs that are safely away from corners; `seed` moves on to those that are.
std::pair<ReferenceLayer, std::vector<float>> safeLayer(const Description& d, uint32_t tokens, uint32_t& seed) {
    for (;; ++seed) {
        ReferenceLayer layer = makeRandomLayer(d, WeightFormat::f32, seed).reference;
        auto x = randomTokens(tokens, d.model_dim, seed + 1);
        if (oracleForward(layer, {x.begin(), x.end()}).smallest_corner > kSafe) return {layer, x};
    }
}

// The task's gradients, and those of both losses of the router, for weights, inputs and logits.
void checkLayer(const Description& d, uint32_t tokens, uint32_t seed) {
    REQUIRE(validate(d));
    auto [layer, narrow] = safeLayer(d, tokens, seed);
    CAPTURE(seed);
    std::mt19937 random(seed);
    Doubles x(narrow.begin(), narrow.end()), grad_out = randomNumbers(x.size(), random);
    OracleForward base = oracleForward(layer, x);
    ReferenceResult forward = referenceForward(layer, narrow);
    REQUIRE(base.routes.selected == forward.selected);
    for (size_t i = 0; i < x.size(); ++i) CHECK(std::fabs(base.output[i] - forward.output[i]) < 1e-12);

    OracleChoice choice{base.routes.selected, base.routes.chosen, Doubles(base.logits.size())};
    Doubles fraction = oracleFractions(d, base.routes);
    constexpr double kBalance = 0.3, kZ = 0.07;
    OracleGradients grads = oracleBackward(
        layer, base, grad_out, {.balance_scale = kBalance * d.experts / tokens, .z_scale = 2 * kZ / tokens});
    Gradients all;
    all.loss = [&] {
        OracleForward f = oracleForward(layer, x, choice);
        return weighted(f.output, grad_out) + kBalance * oracleBalanceLoss(fraction, f.logits) +
               kZ * oracleZLoss(d.experts, f.logits);
    };
    auto weights = parametersOf(layer), grad_weights = parametersOf(grads.parameters);
    for (size_t p = 0; p < weights.size(); ++p) all.add(weights[p].first, *weights[p].second, *grad_weights[p].second);
    all.add("x", x, grads.x);
    all.add("logits", choice.noise, grads.logits);
    all.check(random);

    // The task's loss is linear in the gates, all of which have the factor routed_scale.
    OracleGradients task = oracleBackward(layer, base, grad_out);
    double scale = double(d.routed_scale), by_gates = weighted(base.routes.gates, task.gates) / scale;
    auto scaledLoss = [&](float by) {
        layer.description.routed_scale = d.routed_scale * by;
        return weighted(oracleForward(layer, x, choice).output, grad_out);
    };
    CHECK(std::fabs((scaledLoss(1.5f) - scaledLoss(0.5f)) / scale - by_gates) <= 1e-9 * (1 + std::fabs(by_gates)));
}

struct SharedForm {
    const char* name;
    Shared shared;
    SharedOrder order;
};

}  // namespace

TEST_CASE("the oracle's gradients are differences of its forward pass", "[oracle]") {
    constexpr SharedForm kShared[] = {{"none", Shared::none, SharedOrder::last},
                                      {"first", Shared::plain, SharedOrder::first},
                                      {"last", Shared::plain, SharedOrder::last},
                                      {"sigmoid gated", Shared::sigmoid_gated, SharedOrder::last}};
    uint32_t seed = 0;
    for (auto activation : {Activation::relu, Activation::silu_glu, Activation::gelu_glu, Activation::clamped_swiglu})
        for (auto score : {Score::softmax, Score::softmax_selected, Score::sigmoid})
            for (bool renormalize : {false, true})
                for (const SharedForm& shared : kShared)
                    for (bool biases : {false, true}) {
                        bool gate_bias = biases && activation != Activation::relu;
                        seed += 100;
                        CAPTURE(name(activation), name(score), renormalize, shared.name, biases);
                        checkLayer({.model_dim = 4,
                                    .hidden_dim = 3,
                                    .experts = 4,
                                    .top_k = 2,
                                    .score = score,
                                    .renormalize = renormalize,
                                    .renormalize_epsilon = renormalize ? 0.125f : 0,
                                    .routed_scale = biases ? 2.5f : 1,
                                    .router_bias = biases,
                                    .activation = activation,
                                    .swiglu_limit = 0.75f,
                                    .gate_bias = gate_bias,
                                    .up_bias = biases,
                                    .down_bias = biases,
                                    .shared = shared.shared,
                                    .shared_order = shared.order,
                                    .shared_dim = shared.shared == Shared::none ? 0u : 5u,
                                    .shared_gate_bias = gate_bias && shared.shared != Shared::none,
                                    .shared_up_bias = biases && shared.shared != Shared::none,
                                    .shared_down_bias = biases && shared.shared != Shared::none},
                                   2, seed);
                    }
}

TEST_CASE("the oracle differentiates any routing", "[oracle]") {
    Description d{.model_dim = 5, .hidden_dim = 2, .experts = 6, .top_k = 3, .score = Score::sigmoid};
    d.renormalize = true;
    SECTION("one expert a token") { d.top_k = 1; }
    SECTION("all experts") { d.top_k = d.experts; }
    SECTION("one expert") { d.experts = d.top_k = 1; }
    SECTION("groups and a selection bias") {
        d.selection_bias = true;
        d.groups = 3;
        d.groups_kept = 2;
        d.group_score = GroupScore::sum_of_top2;
    }
    SECTION("capacity") {
        d.score = Score::softmax;
        d.dispatch = Dispatch::capacity;
        d.capacity_factor = 0.6f;  // some tokens find all experts full
    }
    for (uint32_t seed : {700u, 800u, 900u}) checkLayer(d, 7, seed);
}

TEST_CASE("the reference engine's balance weight is the mean's, divided by the batch once more", "[oracle]") {
    constexpr uint32_t kBatch = 4;
    MoeShape shape{5, 6, 3, 2};
    ReferenceLayer reference = shape.zeros();
    initMoe(reference, 9);
    ReferenceLayer mean = reference;
    std::mt19937 random(11);
    Doubles x = randomNumbers(2 * kBatch * shape.model_dim, random), y = randomNumbers(x.size(), random);
    LayerTrainOptions options{.aux_weight = 0.5, .batch = kBatch, .epochs = 3};
    OracleAdamw one({}), two({});
    oracleTrain(reference, one, x, y, options);
    options.aux_weight /= kBatch;
    options.aux_scale = AuxScale::mean;
    oracleTrain(mean, two, x, y, options);
    CHECK(one.steps() == 6);
    Doubles a = flatten(reference), b = flatten(mean);
    for (size_t i = 0; i < a.size(); ++i) CHECK(std::fabs(a[i] - b[i]) < 1e-9);
}

TEST_CASE("the oracle's language model gradients are differences of its loss", "[oracle]") {
    for (uint32_t kernel : {1u, 3u}) {
        std::mt19937 random(20 + kernel);
        LmShape shape{7, 4, 2, kernel, 3, 3, 2};
        OracleLm lm = zeroLm(shape), grad = zeroLm(shape);
        for (auto& [name, tensor] : parametersOf(lm)) *tensor = randomNumbers(tensor->size(), random);
        std::vector<uint32_t> tokens{3, 1, 6, 6, 2};
        CAPTURE(kernel);
        LmForward f = lmForward(lm, tokens);
        REQUIRE(std::min(f.smallest_margin, f.smallest_corner) > kSafe);
        REQUIRE(lmBackward(lm, tokens, grad) > 0);
        Gradients all;
        OracleLm unused = zeroLm(shape);
        all.loss = [&] { return lmBackward(lm, tokens, unused); };
        auto weights = parametersOf(lm), grads = parametersOf(grad);
        for (size_t p = 0; p < weights.size(); ++p) all.add(weights[p].first, *weights[p].second, *grads[p].second);
        all.check(random);
    }
}

TEST_CASE("the oracle learns nothing from a single token", "[oracle]") {
    OracleLm lm = initLm({.vocab = 5, .model_dim = 4, .hidden_dim = 3}), grad = zeroLm(lm.shape);
    CHECK(lmBackward(lm, {2}, grad) == 0);
    CHECK(lmBackward(lm, {}, grad) == 0);
    for (double g : flatten(grad)) CHECK(g == 0);
    OracleAdamw optimizer({});
    CHECK(lmTrain(lm, optimizer, {{1}, {}}, {.epochs = 2}) == Doubles{0, 0});
    CHECK(optimizer.steps() == 0);
}
