// The oracle of training against the reference engine's recordings.
#include <catch2/catch_test_macros.hpp>
#include <cmath>
#include <random>
#include <utility>

#include "tests/train/golden_checks.h"

using namespace test;

namespace {

// Recorded gradients are f32, rounded after every added term.
constexpr Tolerance kOracle{.gradients = 1e-6};

ReferenceLayer layerOf(const Golden& golden, const std::vector<float>& parameters) {
    ReferenceLayer layer = moeShapeOf(golden).zeros();
    size_t at = 0;
    unflatten(widened(parameters), layer, at);
    return layer;
}

OracleLm lmOf(const Golden& golden, const std::vector<float>& parameters) {
    OracleLm lm = zeroLm(lmShapeOf(golden));
    unflatten(widened(parameters), lm);
    return lm;
}

Doubles lossesOf(const std::vector<EpochResult>& history, double EpochResult::*which) {
    Doubles losses;
    for (const EpochResult& epoch : history) losses.push_back(epoch.*which);
    return losses;
}

void checkLayerGradients(const Golden& golden) {
    ReferenceLayer layer = layerOf(golden, startOf(golden));
    OracleForward forward = oracleForward(layer, widened(golden.f32("input")));
    auto experts = golden.i32("experts");
    REQUIRE(std::vector<int32_t>(forward.routes.selected.begin(), forward.routes.selected.end()) == experts);
    OracleGradients grads = oracleBackward(layer, forward, widened(golden.f32("dOutput")));
    checkGradients(golden, narrowed(parametersOf(grads.parameters)), narrowed(grads.x), kOracle);

    Doubles none(forward.output.size()), fraction = widened(golden.f32("dispatchFraction"));
    RouterLosses losses{.balance_scale = golden.number("auxScale"), .fraction = fraction};
    checkAuxGradient(golden, narrowed(oracleBackward(layer, forward, none, losses).parameters.router), kOracle);
    double balance = oracleBalanceLoss(oracleFractions(layer.description, forward.routes), forward.logits);
    CHECK(std::fabs(balance - golden.number("loadBalanceLoss")) < 1e-6);
}

void checkRun(const Golden& golden, const std::string& run) {
    ReferenceLayer layer = layerOf(golden, startOf(golden));
    auto options = trainOptionsOf(golden, run);
    OracleAdamw optimizer(options.adamw);
    Doubles inputs = widened(golden.f32("train:input")), targets = widened(golden.f32("train:target"));
    std::vector<EpochResult> history;
    uint32_t epochs = std::exchange(options.epochs, 1);
    for (uint32_t epoch = 0; epoch < epochs; ++epoch) {
        history.push_back(oracleTrain(layer, optimizer, inputs, targets, options)[0]);
        if (hasEpochs(golden, run)) checkEpoch(golden, run, epoch, narrowed(parametersOf(layer)));
    }
    checkTraining(golden, run, lossesOf(history, &EpochResult::loss), lossesOf(history, &EpochResult::aux_loss),
                  narrowed(parametersOf(layer)));
}

// A run from a start that is moved by up to half a unit of its last place.
std::pair<Doubles, std::vector<float>> movedRun(const Golden& golden, const std::string& run, uint32_t seed) {
    OracleLm lm = lmOf(golden, startOf(golden));
    std::mt19937 random(seed);
    for (auto& [name, tensor] : parametersOf(lm))
        for (double& w : *tensor) w *= seed == 0 ? 1 : 1 + double(int32_t(random())) * 0x1p-31 * 0x1p-24;
    auto options = lmTrainOptionsOf(golden, run);
    OracleAdamw optimizer(options.adamw);
    Doubles losses = lmTrain(lm, optimizer, sequencesOf(golden), options);
    return {losses, narrowed(flatten(lm))};
}

Spread measureSpread(const Golden& golden, const std::string& run) {
    auto [losses, weights] = movedRun(golden, run, 0);
    Spread spread{Doubles(losses.size()), 0};
    for (uint32_t seed = 1; seed <= kSpreadRuns; ++seed) {
        auto [moved, moved_weights] = movedRun(golden, run, seed);
        for (size_t i = 0; i < losses.size(); ++i)
            spread.losses[i] = std::max(spread.losses[i], std::fabs(moved[i] / losses[i] - 1));
        double difference = percentileDifference(moved_weights, weights, 0.999);
        spread.weights = std::max(spread.weights, difference / largestOf(weights));
    }
    return spread;
}

}  // namespace

TEST_CASE("the oracle's gradients are the reference engine's", "[oracle][golden]") {
    for (const std::string& name : Golden::cases("moe/"))
        if (name != "moe/large") DYNAMIC_SECTION(name) {
                checkLayerGradients(Golden(name));
            }
}

// Millions of weights: not under the sanitizers.
TEST_CASE("the oracle's gradients of a large layer are the reference engine's", "[oracle][golden][math]") {
    checkLayerGradients(Golden("moe/large"));
}

TEST_CASE("the oracle trains layers as the reference engine does", "[oracle][golden]") {
    for (const std::string& name : Golden::cases("moe/")) {
        Golden golden(name);
        for (const char* run : {"train_full", "train_mini"}) {
            if (!golden.has(std::string(run) + ":loss") || name == "moe/large") continue;
            DYNAMIC_SECTION(name << " " << run) { checkRun(golden, run); }
        }
    }
}

TEST_CASE("the oracle trains a large layer as the reference engine does", "[.large]") {  // takes seconds
    checkRun(Golden("moe/large"), "train_full");
}

TEST_CASE("the oracle's optimiser is the reference engine's", "[oracle][golden]") {
    for (const char* variant : {"defaults", "decay", "betas"}) {
        OracleAdamw optimizer(adamwOptionsOf(variant));
        Doubles parameters = widened(adamwStart());
        for (uint32_t step = 0; step < 12; ++step) {
            Doubles grad = widened(adamwGradient(step));
            optimizer.step({&parameters}, {&grad});
            checkAdamw(variant, step, narrowed(parameters), 1e-6);
        }
    }
}

TEST_CASE("the oracle's cross-entropy is the reference engine's", "[oracle][golden]") {
    Golden golden("cross_entropy");
    for (std::string one : {"u", "r", "big", "spread"}) {
        CAPTURE(one);
        Doubles grad;
        double loss = oracleCrossEntropy(widened(golden.f32(one + ":logits")), 1, grad);
        double want = golden.f64(one + ":loss_target1")[0];
        CHECK(std::fabs(loss - want) <= 1e-12 * std::fabs(want));
        CHECK(worstDifference(narrowed(grad), golden.f32(one + ":grad_target1")) <= 1e-7);
    }
}

TEST_CASE("the oracle's language model is the reference engine's", "[oracle][golden]") {
    for (const std::string& name : Golden::cases("lm/")) {
        Golden golden(name);
        DYNAMIC_SECTION(name) {
            OracleLm lm = lmOf(golden, startOf(golden)), grad = zeroLm(lm.shape);
            std::vector<uint32_t> tokens;
            for (int32_t token : golden.i32("tokens")) tokens.push_back(uint32_t(token));
            LmForward forward = lmForward(lm, tokens);
            checkLogits(golden, narrowed(forward.logits), kOracle);
            double loss = lmBackward(lm, tokens, grad);
            checkLmGradients(golden, loss, narrowed(parametersOf(grad)), {.gradients = 1e-6, .losses = 1e-6});
        }
    }
}

TEST_CASE("the oracle trains language models as the reference engine does", "[oracle][golden]") {
    for (const std::string& name : Golden::cases("lm/")) {
        Golden golden(name);
        for (const char* run : {"train_plain", "train_decay", "train_accum2", "train_checkpoint"}) {
            if (!golden.has(std::string(run) + ":loss")) continue;
            DYNAMIC_SECTION(name << " " << run) {
                OracleLm lm = lmOf(golden, startOf(golden));
                auto options = lmTrainOptionsOf(golden, run);
                OracleAdamw optimizer(options.adamw);
                Doubles losses = lmTrain(lm, optimizer, sequencesOf(golden), options);
                checkTraining(golden, run, losses, {}, narrowed(parametersOf(lm)));
            }
        }
    }
}

// Computes what "lossSpread" and "weightSpread" keep; below 2e-6, where they matter to nobody, they are not kept.
TEST_CASE("runs spread by rounding as the data say", "[.spread]") {
    for (const std::string& name : Golden::cases("lm/")) {
        Golden golden(name);
        for (const char* run : {"train_plain", "train_decay", "train_accum2"}) {
            if (!golden.has(std::string(run) + ":loss")) continue;
            Spread got = measureSpread(golden, run), kept = spreadOf(golden, run);
            kept.losses.resize(got.losses.size());
            CAPTURE(name, run, got.losses, got.weights, kept.losses, kept.weights);
            for (size_t i = 0; i < got.losses.size(); ++i)
                CHECK(std::fabs(got.losses[i] - kept.losses[i]) <= std::max(0.01 * kept.losses[i], 2e-6));
            CHECK(std::fabs(got.weights - kept.weights) <= std::max(0.01 * kept.weights, 2e-6));
        }
    }
}

TEST_CASE("the oracle writes the reference engine's texts", "[oracle][golden]") {
    for (const std::string& name : Golden::cases("lm/")) {
        Golden golden(name);
        for (bool trained : {false, true}) {
            if (trained && !golden.hasBlob("train_plain_final")) continue;
            OracleLm lm = lmOf(golden, trained ? parametersOfFile(golden, "train_plain_final") : startOf(golden));
            for (const GoldenText& text : textsOf(golden, trained ? "generate_trained" : "generate_untrained")) {
                Generated got = lmGenerate(lm, text.prompt, text.options);
                CAPTURE(name, trained, text.name, got.smallest_margin);
                CHECK(got.ids == text.ids);
            }
        }
    }
}
