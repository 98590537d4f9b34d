#include "tests/train/golden_checks.h"

#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <cmath>
#include <cstring>
#include <limits>

namespace test {
namespace {

// A layer's tensor as the recordings call it: "experts.3.up.weight" is "expert3.w1".
std::string recordedName(const std::string& name) {
    if (name == "router.weight") return "wr";
    size_t part = name.rfind('.', name.rfind('.') - 1);
    std::string expert = name.substr(0, part), rest = name.substr(part + 1);
    if (expert.starts_with("experts.")) expert = "expert" + expert.substr(8);
    const char* tensor = rest == "up.weight"     ? ".w1"
                         : rest == "up.bias"     ? ".b1"
                         : rest == "down.weight" ? ".w2"
                                                 : ".b2";
    return expert + tensor;
}

void checkClose(std::span<const float> got, std::span<const float> want, double of_largest) {
    double bound = of_largest * largestOf(want), worst = worstDifference(got, want);
    CAPTURE(worst, bound);
    CHECK(worst <= bound);
}

// Against an array of the case, or, of one kept as a digest, against its samples.
void checkArray(const Golden& golden, const std::string& array, const std::vector<float>& got, double of_largest) {
    CAPTURE(array);
    if (golden.has(array)) return checkClose(got, golden.f32(array), of_largest);
    auto digest = golden.digest(array);
    REQUIRE(got.size() == digest.size);
    std::vector<float> samples;
    for (size_t i = 0; i < got.size(); i += digest.stride) samples.push_back(got[i]);
    double worst = worstDifference(samples, golden.f32("samples:" + array)), bound = of_largest * largestOf(got);
    CAPTURE(worst, bound);
    CHECK(worst <= bound);
}

void checkCurve(const Golden& golden, const std::string& array, const Doubles& got, double relative,
                const Doubles& spread) {
    CAPTURE(array);
    auto want = golden.f64(array);
    REQUIRE(got.size() == want.size());
    for (size_t epoch = 0; epoch < want.size(); ++epoch) {
        double bound = std::max(relative, epoch < spread.size() ? spread[epoch] : 0) * std::fabs(want[epoch]);
        CAPTURE(epoch, got[epoch], want[epoch], bound);
        CHECK(std::fabs(got[epoch] - want[epoch]) <= bound);
    }
}

}  // namespace

double largestOf(std::span<const float> values) {
    double largest = 0;
    for (float v : values) largest = std::max(largest, std::fabs(double(v)));
    return largest;
}

double worstDifference(std::span<const float> got, std::span<const float> want) {
    return percentileDifference(got, want, 1);
}

double percentileDifference(std::span<const float> got, std::span<const float> want, double share) {
    constexpr double kInfinity = std::numeric_limits<double>::infinity();
    if (got.size() != want.size()) return kInfinity;
    Doubles differences;
    for (size_t i = 0; i < got.size(); ++i) {
        double difference = std::fabs(double(got[i]) - double(want[i]));
        differences.push_back(std::isnan(difference) ? kInfinity : difference);
    }
    if (differences.empty()) return 0;
    size_t rank = std::min(size_t(share * double(differences.size())), differences.size() - 1);
    std::nth_element(differences.begin(), differences.begin() + std::ptrdiff_t(rank), differences.end());
    return differences[rank];
}

void checkGradients(const Golden& golden, const NamedTensors& grads, const std::vector<float>& grad_input,
                    const Tolerance& tolerance) {
    CAPTURE(golden.name());
    checkArray(golden, "dInput", grad_input, tolerance.gradients);
    for (auto& [name, size] : layoutOf(golden)) {
        std::string array = "grad:" + recordedName(name);
        REQUIRE(grads.contains(name));
        if (golden.has(array) || golden.hasDigest(array)) {
            checkArray(golden, array, grads.at(name), tolerance.gradients);
        } else {  // an expert that no token chose
            CAPTURE(name);
            CHECK(worstDifference(grads.at(name), std::vector<float>(size)) == 0);
        }
    }
}

void checkAuxGradient(const Golden& golden, const std::vector<float>& grad_router, const Tolerance& tolerance) {
    CAPTURE(golden.name());
    // Where assignments are even it is zero but for the rounding of probabilities, whose sum times f is subtracted.
    double rounding = 0x1p-25 * golden.number("auxScale") * golden.number("tokens");
    double bound = std::max(tolerance.gradients * largestOf(golden.f32("auxGrad:wr")), rounding);
    double worst = worstDifference(grad_router, golden.f32("auxGrad:wr"));
    CAPTURE(worst, bound);
    CHECK(worst <= bound);
}

Spread spreadOf(const Golden& golden, const std::string& run) {
    if (!golden.hasReals(run + ":lossSpread")) return {};
    return {golden.reals(run + ":lossSpread"), golden.number(run + ":weightSpread")};
}

void checkTraining(const Golden& golden, const std::string& run, const Doubles& losses, const Doubles& aux_losses,
                   const NamedTensors& weights, const Tolerance& tolerance, const Spread* measured) {
    CAPTURE(golden.name(), run);
    Spread spread = measured ? *measured : spreadOf(golden, run);
    for (double& one : spread.losses) one *= tolerance.spreads;
    checkCurve(golden, run + ":loss", losses, tolerance.losses, spread.losses);
    if (!isLm(golden)) checkCurve(golden, run + ":auxLoss", aux_losses, tolerance.losses, {});
    std::vector<float> got = flat(golden, weights), want;
    if (golden.hasBlob(run + "_final")) {
        want = parametersOfFile(golden, run + "_final");
    } else if (golden.has("samples:" + run + ":final")) {
        size_t stride = golden.digest(run + ":final").stride;
        for (size_t i = 0; i * stride < got.size(); ++i) got[i] = got[i * stride];
        got.resize((got.size() + stride - 1) / stride);
        want = golden.f32("samples:" + run + ":final");
    } else {
        return;
    }
    double bound = std::max(tolerance.weights, tolerance.spreads * spread.weights) * largestOf(want);
    double worst = percentileDifference(got, want, 0.999);
    CAPTURE(worst, bound);
    CHECK(worst <= bound);
}

bool hasEpochs(const Golden& golden, const std::string& run) { return golden.has(run + ":weights_per_epoch"); }

void checkEpoch(const Golden& golden, const std::string& run, uint32_t epoch, const NamedTensors& weights,
                const Tolerance& tolerance) {
    CAPTURE(golden.name(), run, epoch);
    auto got = flat(golden, weights), all = golden.f32(run + ":weights_per_epoch");
    auto want = std::span(all).subspan(epoch * got.size(), got.size());
    CHECK(percentileDifference(got, want, 0.999) <= tolerance.weights * largestOf(want));
}

void checkLmGradients(const Golden& golden, double loss, const NamedTensors& grads, const Tolerance& tolerance) {
    CAPTURE(golden.name(), loss);
    CHECK(std::fabs(loss - golden.number("loss")) <= tolerance.losses * golden.number("loss"));
    std::vector<float> got = flat(golden, grads);
    if (!golden.has("grad_flat")) return checkArray(golden, "grad_flat", got, tolerance.gradients);
    for (auto& [name, want] : named(golden, golden.f32("grad_flat"))) {
        CAPTURE(name);
        checkClose(grads.at(name), want, tolerance.gradients);
    }
}

void checkLogits(const Golden& golden, const std::vector<float>& logits, const Tolerance& tolerance) {
    CAPTURE(golden.name());
    checkArray(golden, "logits", logits, tolerance.gradients);
}

void checkAdamw(const std::string& variant, uint32_t step, const std::vector<float>& parameters, double tolerance) {
    CAPTURE(variant, step);
    auto all = Golden("adamw").f32(variant + ":params_per_step");
    checkClose(parameters, std::span(all).subspan(step * parameters.size(), parameters.size()), tolerance);
}

}  // namespace test
