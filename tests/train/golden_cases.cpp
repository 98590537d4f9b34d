#include "tests/train/golden_cases.h"

#include <catch2/catch_test_macros.hpp>
#include <cstring>

namespace test {
namespace {

constexpr size_t kMoe0Header = 24, kEvl0Header = 36, kEvl0Trailer = 8;

uint32_t field(const Golden& golden, const char* key) { return uint32_t(golden.number(key)); }

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

bool isLm(const Golden& golden) { return golden.name().starts_with("lm/"); }

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

}  // namespace test
