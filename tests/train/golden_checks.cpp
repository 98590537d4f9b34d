#include "tests/train/golden_checks.h"

#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <cmath>
#include <cstring>
#include <limits>

namespace test {
namespace {

constexpr size_t kMoe0Header = 24, kEvl0Header = 36, kEvl0Trailer = 8;

bool isLm(const Golden& golden) { return golden.name().starts_with("lm/"); }

uint32_t field(const Golden& golden, const char* key) { return uint32_t(golden.number(key)); }

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

// A name and its number of elements.
std::vector<std::pair<std::string, size_t>> layoutOf(const Golden& golden) {
    std::vector<std::pair<std::string, size_t>> layout;
    if (isLm(golden)) {
        OracleLm lm = zeroLm(lmShapeOf(golden));
        for (auto& [name, tensor] : parametersOf(lm)) layout.emplace_back(name, tensor->size());
    } else {
        ReferenceLayer layer = moeShapeOf(golden).zeros();
        for (auto& [name, tensor] : parametersOf(layer)) layout.emplace_back(name, tensor->size());
    }
    return layout;
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

AdamwOptions adamwOf(const Golden& golden, const std::string& run) {
    AdamwOptions o;
    o.lr = golden.number(run + "_lr", o.lr);
    o.beta1 = golden.number(run + "_beta1", o.beta1);
    o.beta2 = golden.number(run + "_beta2", o.beta2);
    o.eps = golden.number(run + "_eps", o.eps);
    o.weight_decay = golden.number(run + "_weightDecay", o.weight_decay);
    return o;
}

// The recordings' inputs of a seed.
void appendInputs(uint32_t seed, size_t count, float scale, std::vector<float>& to) {
    for (size_t i = 0; i < count; ++i) {
        seed = seed * 747796405u + 2891336453u;
        to.push_back(scale * (float(seed >> 16) - 32768) / 32768);
    }
}

constexpr size_t kAdamwSizes[] = {7, 5, 1};

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

Doubles widened(const std::vector<float>& values) { return {values.begin(), values.end()}; }

std::vector<float> narrowed(const Doubles& values) {
    std::vector<float> out;
    for (double v : values) out.push_back(float(v));
    return out;
}

NamedTensors narrowed(const std::vector<std::pair<std::string, Doubles*>>& tensors) {
    NamedTensors out;
    for (auto& [name, tensor] : tensors) out[name] = narrowed(*tensor);
    return out;
}

MoeShape moeShapeOf(const Golden& golden) {
    return {field(golden, "modelDim"), field(golden, "hiddenDim"), field(golden, "numExperts"), field(golden, "topK")};
}

LmShape lmShapeOf(const Golden& golden) {
    return {field(golden, "vocabSize"),  field(golden, "dModel"),    field(golden, "numLayers"),
            field(golden, "convKernel"), field(golden, "hiddenDim"), field(golden, "numExperts"),
            field(golden, "topK")};
}

std::vector<float> startOf(const Golden& golden) {
    if (golden.hasBlob("init_v1")) return parametersOfFile(golden, "init_v1");
    std::vector<float> start;
    if (isLm(golden)) {
        OracleLm lm = golden.hasNumber("seed") ? initLm(lmShapeOf(golden), uint32_t(golden.number("seed")))
                                               : initLm(lmShapeOf(golden));
        start = narrowed(flatten(lm));
    } else {
        ReferenceLayer layer = moeShapeOf(golden).zeros();
        initMoe(layer, uint32_t(golden.number("seed", 0x4d6f4501)));
        start = narrowed(flatten(layer));
    }
    REQUIRE(golden.digest("init").matches(std::as_bytes(std::span(start))));
    return start;
}

std::vector<float> parametersOfFile(const Golden& golden, const std::string& file) {
    auto bytes = golden.blob(file);
    size_t header = isLm(golden) ? kEvl0Header : kMoe0Header, trailer = isLm(golden) ? kEvl0Trailer : 0;
    std::vector<float> parameters(size_t(golden.number("paramCount")));
    REQUIRE(bytes.size() == header + parameters.size() * sizeof(float) + trailer);
    std::memcpy(parameters.data(), bytes.data() + header, parameters.size() * sizeof(float));
    return parameters;
}

NamedTensors named(const Golden& golden, const std::vector<float>& flat) {
    NamedTensors tensors;
    auto at = flat.begin();
    REQUIRE(flat.size() == size_t(golden.number("paramCount")));
    for (auto& [name, size] : layoutOf(golden)) {
        tensors[name].assign(at, at + std::ptrdiff_t(size));
        at += std::ptrdiff_t(size);
    }
    return tensors;
}

std::vector<float> flat(const Golden& golden, const NamedTensors& tensors) {
    std::vector<float> flat;
    auto layout = layoutOf(golden);
    CHECK(tensors.size() == layout.size());
    for (auto& [name, size] : layout) {
        CAPTURE(name);
        REQUIRE(tensors.contains(name));
        REQUIRE(tensors.at(name).size() == size);
        flat.insert(flat.end(), tensors.at(name).begin(), tensors.at(name).end());
    }
    return flat;
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
    // of one expert, or of as many as the router chooses, it is zero: what is left there is rounding
    double floor = 1e-6 * golden.number("auxScale") * golden.number("tokens");
    double bound = std::max(tolerance.gradients * largestOf(golden.f32("auxGrad:wr")), floor);
    double worst = worstDifference(grad_router, golden.f32("auxGrad:wr"));
    CAPTURE(worst, bound);
    CHECK(worst <= bound);
}

LayerTrainOptions trainOptionsOf(const Golden& golden, const std::string& run) {
    LayerTrainOptions o{.adamw = adamwOf(golden, run)};
    o.aux_weight = golden.number(run + "_auxWeight", o.aux_weight);
    o.batch = uint32_t(golden.number(run + "_batchSize", o.batch));
    o.epochs = uint32_t(golden.number(run + "_epochs"));
    return o;
}

LmTrainOptions lmTrainOptionsOf(const Golden& golden, const std::string& run) {
    LmTrainOptions o{.adamw = adamwOf(golden, run)};
    o.epochs = uint32_t(golden.number(run + "_epochs"));
    o.accumulate = uint32_t(golden.number(run + "_accumSteps", o.accumulate));
    return o;
}

std::vector<std::vector<uint32_t>> sequencesOf(const Golden& golden) {
    std::vector<std::vector<uint32_t>> sequences;
    for (uint32_t i = 0; golden.hasIntegers("trainSequences:" + std::to_string(i)); ++i)
        sequences.push_back(golden.integers("trainSequences:" + std::to_string(i)));
    return sequences;
}

Spread spreadOf(const Golden& golden, const std::string& run) {
    if (!golden.hasReals(run + ":lossSpread")) return {};
    return {golden.reals(run + ":lossSpread"), golden.number(run + ":weightSpread")};
}

void checkTraining(const Golden& golden, const std::string& run, const Doubles& losses, const Doubles& aux_losses,
                   const NamedTensors& weights, const Tolerance& tolerance) {
    CAPTURE(golden.name(), run);
    Spread spread = spreadOf(golden, run);
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

std::vector<GoldenText> textsOf(const Golden& golden, const std::string& state) {
    std::vector<GoldenText> texts;
    for (const char* name : {"greedy", "t08_default_seed", "t08_seed42", "t2_seed0", "empty_prompt", "stop"}) {
        std::string key = state + ":" + name;
        if (!golden.hasIntegers(key + ":ids")) continue;
        GoldenText text{name, golden.integers(key + ":prompt"), golden.integers(key + ":ids"), {}};
        text.options.count = uint32_t(golden.number(key + "_maxNewTokens"));
        text.options.temperature = golden.number(key + "_temperature", 0);
        text.options.seed = uint32_t(golden.number(key + "_seed", 1));
        text.options.stop = int64_t(golden.number(key + "_stopToken", -1));
        texts.push_back(std::move(text));
    }
    return texts;
}

std::vector<float> adamwStart() {
    std::vector<float> start;
    for (uint32_t t = 0; t < 3; ++t) appendInputs(501 + t, kAdamwSizes[t], 1, start);
    return start;
}

std::vector<float> adamwGradient(uint32_t step) {
    float scale = step == 3 || step == 7 ? 0 : step == 5 ? 0x1p-60f : 1;
    std::vector<float> grad;
    for (uint32_t t = 0; t < 3; ++t) appendInputs(510 + 17 * step + t, kAdamwSizes[t], scale, grad);
    return grad;
}

AdamwOptions adamwOptionsOf(const std::string& variant) { return adamwOf(Golden("adamw"), variant); }

void checkAdamw(const std::string& variant, uint32_t step, const std::vector<float>& parameters, double tolerance) {
    CAPTURE(variant, step);
    auto all = Golden("adamw").f32(variant + ":params_per_step");
    checkClose(parameters, std::span(all).subspan(step * parameters.size(), parameters.size()), tolerance);
}

}  // namespace test
