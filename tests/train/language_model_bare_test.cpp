// Language models with no layers, or with convolutions of no taps, on every device: the reference engine has them.
#include <catch2/catch_test_macros.hpp>
#include <cmath>
#include <cstring>

#include "engine/formats/evl0.h"
#include "engine/formats/package.h"
#include "tests/bits.h"
#include "tests/engines.h"
#include "tests/must.h"
#include "tests/train/golden_checks.h"
#include "tests/train/oracle_lm.h"
#include "vkmoe/language_model.h"
#include "vkmoe/lm_trainer.h"

using namespace vkmoe;
using test::must;

namespace {

struct BareModel {
    LmConfig config;
    std::vector<float> parameters;
    formats::LmSource source;
    test::OracleLm oracle;
};

// A cold start with an embedding of some size, so that gradients have one.
BareModel bareModel(uint32_t layers, uint32_t conv_kernel) {
    BareModel m;
    m.config = {.vocab_size = 19,
                .model_dim = 12,
                .layers = layers,
                .conv_kernel = conv_kernel,
                .hidden_dim = 10,
                .experts = 3,
                .top_k = 2};
    m.parameters = must(formats::initialLm(m.config, 5));
    for (size_t i = 0; i < size_t{19} * 12; ++i) m.parameters[i] *= 20;
    m.source = must(formats::readEvl0(memorySource("model", must(formats::writeEvl0(m.config, m.parameters)))));
    m.oracle = test::zeroLm({19, 12, layers, conv_kernel, 10, 3, 2});
    test::unflatten({m.parameters.begin(), m.parameters.end()}, m.oracle);
    return m;
}

std::vector<BareModel> bareModels() {
    std::vector<BareModel> models;
    models.push_back(bareModel(0, 3));
    models.push_back(bareModel(0, 0));
    models.push_back(bareModel(1, 0));
    models.push_back(bareModel(3, 0));
    return models;
}

const std::vector<uint32_t> kText{3, 1, 18, 7, 7, 0, 2, 9, 4};

void checkNear(const std::vector<float>& got, const test::Doubles& want) {
    std::vector<float> rounded(want.begin(), want.end());
    CHECK(test::worstDifference(got, rounded) <= 2e-6 * test::largestOf(rounded));
}

}  // namespace

TEST_CASE("without layers or taps a language model computes what the formulas say", "[lm][bare][device]") {
    for (const BareModel& m : bareModels()) {
        const test::LmForward forward = test::lmForward(m.oracle, kText);
        test::OracleLm grads = test::zeroLm(m.oracle.shape);
        const double loss = test::lmBackward(m.oracle, kText, grads);
        std::vector<float> first;
        for (Engine* engine : test::engines()) {
            CAPTURE(m.config.layers, m.config.conv_kernel, engine->device().info().name);
            auto model = must(LanguageModel::create(*engine, m.source));
            auto logits = must(model.logits(kText));
            checkNear(logits, forward.logits);
            auto trainer = must(LmTrainer::create(*engine, m.source, {}));
            std::vector<Sequence> one{kText};
            CHECK(std::fabs(must(trainer.accumulate(one)) - loss) <= 1e-6 * loss);
            auto found = must(trainer.gradients());
            checkNear(found, test::flatten(grads));
            logits.insert(logits.end(), found.begin(), found.end());
            if (first.empty()) first = logits;
            CHECK(test::sameBits(logits, first));
        }
    }
}

TEST_CASE("without layers or taps text is generated token by token, with experts in pages too", "[lm][bare][device]") {
    for (const BareModel& m : bareModels()) {
        std::optional<std::vector<uint32_t>> first;
        for (Engine* engine : test::engines()) {
            CAPTURE(m.config.layers, m.config.conv_kernel, engine->device().info().name);
            auto model = must(LanguageModel::create(*engine, m.source));
            const GenerateOptions options{.max_new_tokens = 20, .temperature = 1.5f, .seed = 7};
            auto made = must(model.generate(kText, options));
            const test::GenerateOptions wanted{.count = 20, .temperature = 1.5, .seed = 7};
            auto reference = test::lmGenerate(m.oracle, kText, wanted);
            if (reference.smallest_margin > 1e-4) CHECK(made == reference.ids);
            CHECK(must(model.generate({}, options)).size() == 20);
            auto paged = must(
                LanguageModel::create(*engine, m.source, PagingOptions{.device_budget = 2048, .host_budget = 2048}));
            CHECK(must(paged.generate(kText, options)) == made);
            CHECK((paged.pager() == nullptr) == (m.config.layers == 0));
            if (!first) first = made;
            CHECK(made == *first);
        }
    }
}

TEST_CASE("without layers or taps a language model is trained, stopped and trained on", "[lm][bare][device][wide]") {
    const std::vector<std::vector<Sequence>> batch{{kText, {5, 5, 6}}, {{1, 2}}};
    for (const BareModel& m : bareModels()) {
        std::vector<float> first;
        for (Engine* engine : test::engines())
            for (auto [paged, chunk] : {std::pair{false, 0u}, {true, 0u}, {false, 4u}, {true, 4u}}) {
                CAPTURE(m.config.layers, m.config.conv_kernel, engine->device().info().name, paged, chunk);
                LmTrainerOptions options{.aux_weight = 0.01f, .checkpoint_activations = paged, .max_chunk = chunk};
                if (paged) options.paging = TrainingPaging{};
                auto trainer = must(LmTrainer::create(*engine, m.source, options));
                const double before = must(trainer.evaluate(batch[0]));
                for (int i = 0; i < 3; ++i) must(trainer.step(batch));
                auto other = must(LmTrainer::create(*engine, m.source, options));
                auto state = must(trainer.state());
                if (auto done = other.restore(state); !done) FAIL(done.error().detail);
                for (int i = 0; i < 5; ++i) must(other.step(batch));
                CHECK(must(other.evaluate(batch[0])) < before);
                CHECK(trainer.memory(16).total() > 0);
                auto parameters = must(other.parameters());
                if (first.empty()) first = parameters;
                CHECK(test::sameBits(parameters, first));
            }
    }
}

TEST_CASE("files and packages hold language models without layers or taps", "[formats][evl0][package]") {
    for (const BareModel& m : bareModels())
        for (bool fp16 : {false, true}) {
            CAPTURE(m.config.layers, m.config.conv_kernel, fp16);
            auto file = memorySource("m.evl0", must(formats::writeEvl0(m.config, m.parameters, fp16)));
            auto model = must(formats::readEvl0(file));
            CHECK(model.config == m.config);
            CHECK(model.tensors.size() == lmTensors(m.config).size());
            if (!fp16) CHECK(must(formats::readParameters(model)) == m.parameters);
            auto packed = formats::writePackage({.name = "m", .version = "1"}, file);
            CHECK(bool(packed) == (m.config.layers != 0));  // the reference engine refuses packages without
            if (!packed) CHECK(packed.error().detail.starts_with("numLayers is 0; "));
            if (!packed) continue;
            auto package = must(formats::readPackage(memorySource("m.evermind", std::move(packed).value())));
            CHECK(must(formats::readPackagedLm(package)).config == m.config);
        }
}
