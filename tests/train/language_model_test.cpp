// The language model on every device against the reference engine: logits, gradients, training, generated text; and
// its own promises: incremental decoding and recomputed activations change no bit.
#include "vkmoe/language_model.h"

#include <catch2/catch_test_macros.hpp>
#include <cmath>
#include <cstring>
#include <random>

#include "engine/formats/evl0.h"
#include "tests/build.h"
#include "tests/engines.h"
#include "tests/must.h"
#include "tests/train/golden_checks.h"
#include "vkmoe/lm_trainer.h"

using namespace vkmoe;
using test::must;

namespace {

formats::LmSource sourceOf(const LmConfig& config, std::span<const float> parameters) {
    return must(formats::readEvl0(memorySource("model", must(formats::writeEvl0(config, parameters)))));
}

LmConfig configOf(const test::LmShape& s) {
    return {s.vocab, s.model_dim, s.layers, s.kernel, s.hidden_dim, s.experts, s.top_k};
}

formats::LmSource sourceOf(const test::Golden& golden) {
    return sourceOf(configOf(test::lmShapeOf(golden)), test::startOf(golden));
}

std::vector<uint32_t> tokensOf(const test::Golden& golden) {
    std::vector<uint32_t> tokens;
    for (int32_t token : golden.i32("tokens")) tokens.push_back(uint32_t(token));
    return tokens;
}

LmTrainerOptions optionsOf(const test::LmTrainOptions& run) {
    LmTrainerOptions options;
    options.adamw.learning_rate = run.adamw.lr;
    options.adamw.beta1 = run.adamw.beta1;
    options.adamw.beta2 = run.adamw.beta2;
    options.adamw.epsilon = run.adamw.eps;
    options.adamw.weight_decay = run.adamw.weight_decay;
    return options;
}

struct GoldenRun {
    std::vector<double> losses;
    std::vector<float> parameters;
    uint32_t skipped = 0;
};

// The reference trainer's epochs: a step for every `accumulate` sequences, each a micro-batch of its own.
GoldenRun train(Engine& engine, const formats::LmSource& source, const LmTrainerOptions& options,
                const std::vector<Sequence>& sequences, uint32_t epochs, uint32_t accumulate) {
    auto trainer = must(LmTrainer::create(engine, source, options));
    GoldenRun run;
    for (uint32_t epoch = 0; epoch < epochs; ++epoch) {
        double sum = 0;
        uint64_t count = 0;
        std::vector<std::vector<Sequence>> window;
        for (size_t i = 0; i < sequences.size(); ++i) {
            if (sequences[i].size() >= 2) window.push_back({sequences[i]});
            if (window.empty() || (window.size() < accumulate && i + 1 < sequences.size())) continue;
            auto step = must(trainer.step(window));
            sum += step.loss * double(window.size());
            count += window.size();
            run.skipped += step.skipped;
            window.clear();
        }
        run.losses.push_back(count == 0 ? 0.0 : sum / double(count));
    }
    run.parameters = must(trainer.parameters());
    return run;
}

std::vector<Sequence> randomSequences(uint32_t count, uint32_t vocabulary, uint32_t seed) {
    std::mt19937 random(seed);
    std::vector<Sequence> sequences(count);
    for (Sequence& sequence : sequences) {
        sequence.resize(1 + random() % 40);
        for (uint32_t& token : sequence) token = random() % vocabulary;
    }
    return sequences;
}

LmConfig smallConfig() {
    return {
        .vocab_size = 37, .model_dim = 20, .layers = 3, .conv_kernel = 4, .hidden_dim = 24, .experts = 5, .top_k = 2};
}

formats::LmSource smallModel() { return sourceOf(smallConfig(), must(formats::initialLm(smallConfig(), 5))); }

}  // namespace

// Truncation to float16 turns a difference in a gradient's last place into one of 2^-10: what moving the starting
// weights by up to half a unit of their last place does to the losses of a run (relative) and to its weights.
test::Spread spreadOf(Engine& engine, const test::Golden& golden, const LmTrainerOptions& options,
                      const test::LmTrainOptions& run, const GoldenRun& unmoved) {
    test::Spread spread{test::Doubles(unmoved.losses.size()), 0};
    for (uint32_t seed = 1; seed <= test::kSpreadRuns; ++seed) {
        std::mt19937 random(seed);
        auto start = test::startOf(golden);
        for (float& w : start) w = float(double(w) * (1 + double(int32_t(random())) * 0x1p-31 * 0x1p-23));
        GoldenRun moved = train(engine, sourceOf(configOf(test::lmShapeOf(golden)), start), options,
                                test::sequencesOf(golden), run.epochs, run.accumulate);
        for (size_t i = 0; i < moved.losses.size(); ++i)
            spread.losses[i] = std::max(spread.losses[i], std::fabs(moved.losses[i] / unmoved.losses[i] - 1));
        double difference = test::percentileDifference(moved.parameters, unmoved.parameters, 0.999);
        spread.weights = std::max(spread.weights, difference / test::largestOf(unmoved.parameters));
    }
    return spread;
}

TEST_CASE("logits and gradients are the reference engine's", "[lm][golden][device]") {
    for (const std::string& name : test::Golden::cases("lm/")) {
        test::Golden golden(name);
        formats::LmSource source = sourceOf(golden);
        auto tokens = tokensOf(golden);
        for (Engine* engine : test::engines()) {
            CAPTURE(name, engine->device().info().name);
            auto model = must(LanguageModel::create(*engine, source));
            test::checkLogits(golden, must(model.logits(tokens)));
            auto trainer = must(LmTrainer::create(*engine, source, {}));
            std::vector<Sequence> one{tokens};
            double loss = must(trainer.accumulate(one));
            test::checkLmGradients(golden, loss, test::named(golden, must(trainer.gradients())));
        }
    }
}

TEST_CASE("language models train as the reference engine's do, with the same bits everywhere",
          "[lm][golden][device][curves]") {
    for (const std::string& name : test::Golden::cases("lm/")) {
        test::Golden golden(name);
        formats::LmSource source = sourceOf(golden);
        for (std::string run : {"train_plain", "train_accum2", "train_decay", "train_checkpoint", "train_mixed",
                                "train_mixed_overflow"}) {
            if (!golden.has(run + ":loss")) continue;
            auto options = test::lmTrainOptionsOf(golden, run);
            // Runs whose spread must be measured are many: the sanitizers see the same code in the others.
            if (test::kSanitized && (run.starts_with("train_mixed") || golden.hasReals(run + ":lossSpread"))) continue;
            std::optional<GoldenRun> first;
            for (Engine* engine : test::engines()) {
                CAPTURE(name, run, engine->device().info().name);
                LmTrainerOptions ours = optionsOf(options);
                ours.checkpoint_activations = run == "train_checkpoint";
                ours.loss_scaling = golden.number(run + "_mixedPrecision", 0) != 0;
                ours.scaler.initial = golden.number(run + "_initScale", ours.scaler.initial);
                ours.scaler.interval = uint32_t(golden.number(run + "_growthInterval", ours.scaler.interval));
                GoldenRun got =
                    train(*engine, source, ours, test::sequencesOf(golden), options.epochs, options.accumulate);
                CHECK(got.skipped == golden.number(run + "_final_skipped", 0));
                if (!first) {
                    std::optional<test::Spread> spread;
                    if (ours.loss_scaling || golden.hasReals(run + ":lossSpread"))
                        spread = spreadOf(*engine, golden, ours, options, got);
                    test::checkTraining(golden, run, got.losses, {}, test::named(golden, got.parameters), {},
                                        spread ? &*spread : nullptr);
                    first = std::move(got);
                    continue;
                }
                CHECK(got.losses == first->losses);
                CHECK(got.parameters == first->parameters);
            }
        }
    }
}

TEST_CASE("generated text is the reference engine's", "[lm][golden][device]") {
    for (const std::string& name : test::Golden::cases("lm/")) {
        test::Golden golden(name);
        formats::LmSource source = sourceOf(golden);
        for (Engine* engine : test::engines()) {
            CAPTURE(name, engine->device().info().name);
            auto model = must(LanguageModel::create(*engine, source));
            for (const test::GoldenText& text : test::textsOf(golden, "generate_untrained")) {
                CAPTURE(text.name);
                GenerateOptions options{.max_new_tokens = text.options.count,
                                        .temperature = float(text.options.temperature),
                                        .seed = text.options.seed};
                if (text.options.stop >= 0) options.stop = uint32_t(text.options.stop);
                CHECK(must(model.generate(text.prompt, options)) == text.ids);
            }
        }
    }
}

TEST_CASE("incremental decoding gives the bits of the full forward pass", "[lm][device]") {
    formats::LmSource source = smallModel();
    for (Engine* engine : test::engines()) {
        CAPTURE(engine->device().info().name);
        auto model = must(LanguageModel::create(*engine, source));
        Sequence prompt{3, 1, 36, 7, 7, 0}, text = prompt;
        GenerateOptions options{.max_new_tokens = 300, .temperature = 1.5f, .seed = 11};
        auto made = must(model.generate(prompt, options));
        REQUIRE(made.size() == 300);
        text.insert(text.end(), made.begin(), made.end());
        // The same choices from full passes: greedy from any prefix equals the best of the full logits.
        auto logits = must(model.logits(text));
        for (size_t length : {1u, 6u, 255u, 256u, 257u, 306u}) {
            auto next = must(model.generate(std::span(text).first(length), {.max_new_tokens = 1}));
            auto row = std::span(logits).subspan((length - 1) * 37, 37);
            CHECK(next[0] == uint32_t(std::max_element(row.begin(), row.end()) - row.begin()));
            auto alone = must(model.logits(std::span(text).first(length)));
            CHECK(std::memcmp(alone.data(), logits.data(), alone.size() * 4) == 0);
        }
    }
}

TEST_CASE("recomputed activations, and either precision, give the same bits on every device", "[lm][device][wide]") {
    formats::LmSource source = smallModel();
    auto sequences = randomSequences(9, 37, 3);
    std::vector<std::vector<Sequence>> batches{{sequences.begin(), sequences.begin() + 5},
                                               {sequences.begin() + 5, sequences.end()}};
    for (Precision precision : {Precision::exact, Precision::rounded}) {
        std::optional<std::vector<float>> first;
        for (Engine* engine : test::engines()) {
            for (bool recompute : {false, true}) {
                if (!recompute && !test::isHost(*engine)) continue;  // "200 steps of a language model"
                CAPTURE(name(precision), recompute, engine->device().info().name);
                LmTrainerOptions options{.precision = precision,
                                         .aux_weight = 0.01f,
                                         .z_weight = 0.001f,
                                         .checkpoint_activations = recompute};
                options.adamw.max_norm = 0.5;
                options.adamw.weight_decay = 0.01;
                auto trainer = must(LmTrainer::create(*engine, source, options));
                double before = must(trainer.evaluate(sequences));
                for (int i = 0; i < 25; ++i) CHECK_FALSE(must(trainer.step(batches)).skipped);
                CHECK(must(trainer.evaluate(sequences)) < 0.9 * before);
                auto parameters = must(trainer.parameters());
                if (!first) first = parameters;
                CHECK(std::memcmp(parameters.data(), first->data(), parameters.size() * 4) == 0);
            }
        }
    }
}

TEST_CASE("200 steps of a language model end in the same weights on every device, in chunks and whole",
          "[lm][device][deep]") {
    formats::LmSource source = smallModel();
    auto sequences = randomSequences(4, 21, 5);
    std::vector<std::vector<Sequence>> batches{{sequences.begin(), sequences.begin() + 3}, {sequences.back()}};
    for (Precision precision : {Precision::exact, Precision::rounded}) {
        std::optional<std::vector<float>> first;
        for (Engine* engine : test::engines()) {
            CAPTURE(name(precision), engine->device().info().name);
            LmTrainerOptions options{.precision = precision, .aux_weight = 0.01f};
            if (first) options.max_chunk = precision == Precision::exact ? 37 : 50;
            options.adamw.max_norm = 0.5;
            auto trainer = must(LmTrainer::create(*engine, source, options));
            double before = must(trainer.evaluate(sequences));
            for (int i = 0; i < 200; ++i) CHECK_FALSE(must(trainer.step(batches)).skipped);
            CHECK(must(trainer.evaluate(sequences)) < 0.5 * before);
            auto parameters = must(trainer.parameters());
            if (!first) first = parameters;
            CHECK(std::memcmp(parameters.data(), first->data(), parameters.size() * 4) == 0);
        }
    }
}

TEST_CASE("a trainer that is restored goes on with the same bits", "[lm]") {
    formats::LmSource source = smallModel();
    auto sequences = randomSequences(8, 37, 4);
    std::vector<std::vector<Sequence>> batch{sequences};
    Engine& engine = *test::engines()[1];
    for (bool scaling : {false, true}) {
        LmTrainerOptions options{.loss_scaling = scaling};
        auto whole = must(LmTrainer::create(engine, source, options));
        auto half = must(LmTrainer::create(engine, source, options));
        for (int i = 0; i < 6; ++i) must(whole.step(batch));
        for (int i = 0; i < 3; ++i) must(half.step(batch));
        auto state = must(half.state());
        auto other = must(LmTrainer::create(engine, source, options));
        if (auto done = other.restore(state); !done) FAIL(done.error().detail);
        for (int i = 0; i < 3; ++i) must(other.step(batch));
        CHECK(must(other.parameters()) == must(whole.parameters()));
    }
}

TEST_CASE("shards of a trainer's state make the step of a whole one", "[lm]") {
    formats::LmSource source = smallModel();
    std::vector<std::vector<Sequence>> batch{randomSequences(8, 37, 4)};
    Engine& engine = *test::engines()[0];
    const auto stepped = [&](Shard shard) {
        auto trainer = must(LmTrainer::create(engine, source, {.shard = shard}));
        must(trainer.step(batch));
        return must(trainer.state());
    };
    const std::vector<float> before = must(formats::readParameters(source));
    const LmTrainerState whole = stepped({});
    std::vector<float> together = before;
    size_t moments = 0;
    for (uint32_t index = 0; index < 3; ++index) {
        const LmTrainerState part = stepped({index, 3});
        moments += part.first.size();
        CHECK(part.first.size() < whole.first.size());
        for (size_t i = 0; i < before.size(); ++i)
            if (part.parameters[i] != before[i]) together[i] = part.parameters[i];
    }
    CHECK(moments >= before.size());
    CHECK(moments <= whole.first.size());  // which has some between the tensors, too
    CHECK((together == whole.parameters));
    CHECK(LmTrainer::create(engine, source, {.shard = {3, 3}}).error().code == ErrorCode::bad_input);
    CHECK(LmTrainer::create(engine, source, {.paging = TrainingPaging{}, .shard = {0, 2}}).error().code ==
          ErrorCode::unsupported);
}

TEST_CASE("two submits make a step", "[lm]") {
    formats::LmSource source = smallModel();
    auto sequences = randomSequences(8, 37, 4);
    std::vector<std::vector<Sequence>> batch{sequences};
    auto trainer = must(LmTrainer::create(*test::engines()[1], source, {}));
    must(trainer.step(batch));
    auto step = must(trainer.step(batch));
    CHECK(step.submits == 2);
    CHECK(step.host_waits == 2);
}
