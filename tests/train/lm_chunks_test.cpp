// A language model's micro-batch in chunks: the bits of one that is whole, wherever it is cut.
#include <catch2/catch_test_macros.hpp>
#include <filesystem>
#include <random>

#include "engine/formats/evl0.h"
#include "tests/engines.h"
#include "tests/must.h"
#include "tests/train/lm_run.h"
#include "vkmoe/lm_trainer.h"

using namespace vkmoe;
using test::must;

namespace {

constexpr uint32_t kLength = 23;  // of a sequence: experts have slots of more than a block, which ends within chunks
const LmConfig kShape{
    .vocab_size = 37, .model_dim = 20, .layers = 3, .conv_kernel = 4, .hidden_dim = 24, .experts = 5, .top_k = 2};

formats::LmSource chunkModel(const LmConfig& config) {
    return must(formats::readEvl0(
        memorySource("model", must(formats::writeEvl0(config, must(formats::initialLm(config, 5)))))));
}

std::vector<Sequence> someSequences(std::mt19937& random, size_t count) {
    std::vector<Sequence> sequences(count, Sequence(kLength));
    for (Sequence& sequence : sequences)
        for (uint32_t& token : sequence) token = random() % kShape.vocab_size;
    return sequences;
}

// Micro-batches of `most` sequences and of one, which fits most chunks; one that is too short to count.
std::vector<std::vector<Sequence>> stepOf(uint32_t number, uint32_t most) {
    std::mt19937 random(number);
    std::vector<std::vector<Sequence>> step{someSequences(random, most), someSequences(random, 1)};
    step[0].insert(step[0].begin() + 2, Sequence{3});
    step[0].back().resize(number % 5 + 2);
    return step;
}

test::LmRun runIn(Engine& engine, const LmTrainerOptions& options, uint32_t steps, uint32_t most = 7) {
    auto trainer = must(LmTrainer::create(engine, chunkModel(kShape), options));
    test::LmRun run;
    for (uint32_t i = 0; i < steps; ++i) {
        LmStep done = must(trainer.step(stepOf(i, most)));
        run.numbers.insert(run.numbers.end(), {done.loss, done.grad_norm, double(done.skipped), double(done.tokens)});
        run.tokens.push_back(done.expert_tokens);
    }
    const auto some = stepOf(100, most);
    run.numbers.push_back(must(trainer.accumulate(some[0])));
    run.values.push_back(must(trainer.gradients()));
    run.numbers.push_back(must(trainer.accumulate(some[0], false)));
    run.values.push_back(must(trainer.gradients()));
    run.numbers.push_back(must(trainer.evaluate(some[0])));
    LmTrainerState state = must(trainer.state());
    run.values.insert(run.values.end(), {state.parameters, state.first, state.second});
    return run;
}

LmTrainerOptions chunkOptions(Precision precision, bool recompute) {
    LmTrainerOptions options{
        .precision = precision, .aux_weight = 0.01f, .z_weight = 0.001f, .checkpoint_activations = recompute};
    options.adamw.max_norm = 0.5;
    options.adamw.weight_decay = 0.01;
    return options;
}

}  // namespace

TEST_CASE("a language model's micro-batch in chunks gives the bits of a whole one", "[train][lm][device][wide]") {
    for (Precision precision : {Precision::exact, Precision::rounded}) {
        std::optional<test::LmRun> whole;
        for (Engine* engine : test::engines())
            for (bool recompute : {false, true}) {
                // On drivers the richer form; "200 steps of a language model" has chunks in exact precision, too.
                if (!test::isHost(*engine) && !(recompute && precision == Precision::rounded)) continue;
                LmTrainerOptions options = chunkOptions(precision, recompute);
                if (!whole) whole = runIn(*engine, options, 2);
                for (uint32_t chunk : {kLength, 2 * kLength, 3 * kLength, 7u, 64u, 1000u}) {
                    // All of them on vectors, the fastest here.
                    if (engine != test::engines()[1] && chunk != (recompute ? 2 * kLength : kLength)) continue;
                    CAPTURE(name(precision), recompute, chunk, engine->device().info().name);
                    options.max_chunk = chunk;
                    test::checkSame(runIn(*engine, options, 2), *whole);
                }
            }
    }
}

TEST_CASE("a chunk may be a token", "[train][lm]") {
    for (Engine* engine : {test::engines()[0], test::engines()[1]}) {
        LmTrainerOptions options = chunkOptions(Precision::exact, true);
        const test::LmRun whole = runIn(*engine, options, 1);
        options.max_chunk = 1;
        test::checkSame(runIn(*engine, options, 1), whole);
    }
}

// Gradients of experts are assigned in a step of one micro-batch, and added up in others.
TEST_CASE("a step of one micro-batch has the bits of one with empty ones beside it", "[train][lm]") {
    using Step = std::vector<std::vector<Sequence>>;
    for (Engine* engine : {test::engines()[0], test::engines()[1]})
        for (uint32_t chunk : {0u, 30u}) {
            CAPTURE(engine->device().info().name, chunk);
            LmTrainerOptions options = chunkOptions(Precision::exact, false);
            options.max_chunk = chunk;
            auto trained = [&](auto&& arrange) {
                auto trainer = must(LmTrainer::create(*engine, chunkModel(kShape), options));
                for (uint32_t i = 0; i < 3; ++i) must(trainer.step(arrange(stepOf(i, 3)[0])));
                LmTrainerState state = must(trainer.state());
                return test::LmRun{.values = {state.parameters, state.first, state.second}};
            };
            const std::vector<Sequence> none{{3}};
            const test::LmRun alone = trained([&](const auto& some) { return Step{some}; });
            test::checkSame(trained([&](const auto& some) { return Step{some, none}; }), alone);
            test::checkSame(trained([&](const auto& some) { return Step{none, some}; }), alone);
        }
}

TEST_CASE("no step depends on the order of work between barriers", "[train][lm]") {
    auto backwards = must(Engine::open({.device = "cpu", .device_options = {.backwards = true}}));
    for (Precision precision : {Precision::exact, Precision::rounded})
        for (uint32_t chunk : {0u, 30u}) {
            CAPTURE(name(precision), chunk);
            LmTrainerOptions options = chunkOptions(precision, true);
            options.max_chunk = chunk;
            test::checkSame(runIn(*backwards, options, 2), runIn(*test::engines()[1], options, 2));
        }
}

TEST_CASE("gradients of chunks pass through float16 as those of whole micro-batches", "[train][lm]") {
    Engine& engine = *test::engines()[1];
    for (bool rescale : {false, true})
        for (double initial : {0x1p2, 0x1p19}) {
            CAPTURE(rescale, initial);
            LmTrainerOptions options = chunkOptions(Precision::exact, false);
            options.loss_scaling = true;
            options.rescale_sums = rescale;
            options.scaler = {.initial = initial, .backoff = 0x1p-12};
            const test::LmRun whole = runIn(engine, options, 5);
            options.max_chunk = 30;
            test::checkSame(runIn(engine, options, 5), whole);
        }
}

TEST_CASE("experts in pages train in chunks with the bits of training without", "[train][lm][paging][device][deep]") {
    for (Engine* engine : test::engines())
        for (Precision precision : {Precision::exact, Precision::rounded})
            for (bool recompute : {false, true}) {
                if (!test::isHost(*engine) && !(recompute && precision == Precision::rounded)) continue;
                CAPTURE(engine->device().info().name, name(precision), recompute);
                LmTrainerOptions options = chunkOptions(precision, recompute);
                const test::LmRun whole = runIn(*engine, options, 3);
                options.max_chunk = 2 * kLength;
                options.paging = TrainingPaging{.device_budget = 40 << 10, .host_budget = 40 << 10};
                if (recompute) options.paging->scratch = std::filesystem::temp_directory_path().string();
                test::checkSame(runIn(*engine, options, 3), whole);
            }
}

TEST_CASE("chunks take the memory that they say, which is less", "[train][lm]") {
    const LmConfig config{
        .vocab_size = 512, .model_dim = 96, .layers = 4, .conv_kernel = 4, .hidden_dim = 192, .experts = 6, .top_k = 2};
    const auto source = chunkModel(config);
    std::vector<std::vector<Sequence>> batch{std::vector<Sequence>(16, Sequence(128, 65))};
    for (bool recompute : {false, true}) {
        uint64_t whole = 0;
        for (uint32_t chunk : {0u, 128u}) {
            auto engine = must(Engine::open({.device = "cpu"}));
            auto trainer = must(LmTrainer::create(
                *engine, source, {.checkpoint_activations = recompute, .max_tokens = 2048, .max_chunk = chunk}));
            must(trainer.step(batch));
            TrainingMemory memory = trainer.memory(2048);
            CAPTURE(recompute, chunk, memory.shown(), trainer.peakBytes());
            CHECK(double(trainer.peakBytes()) <= 1.1 * double(memory.total()));
            CHECK(double(trainer.peakBytes()) >= 0.9 * double(memory.total()));
            if (chunk == 0) whole = memory.activations;
            if (chunk != 0) CHECK(memory.activations < (recompute ? whole / 2 : whole * 9 / 10));
        }
    }
}

TEST_CASE("a micro-batch too large for the memory, or for a pass, is told what chunks allow", "[train][lm]") {
    const auto source = chunkModel(kShape);
    auto engine = must(Engine::open({.device = "cpu"}));
    auto refused = [&](const LmTrainerOptions& options) {
        auto made = LmTrainer::create(*engine, source, options);
        REQUIRE_FALSE(made);
        CHECK(made.error().code == ErrorCode::bad_input);
        return made.error().detail;
    };
    CHECK(refused({.max_tokens = 12001}).find("more may come in chunks") != std::string::npos);
    CHECK(refused({.max_tokens = 30001}).find("more may") == std::string::npos);
    CHECK(refused({.max_tokens = 30001, .max_chunk = 100}).find("30000 are the most in chunks") != std::string::npos);
    auto small = must(
        Engine::open({.device = "cpu",
                      .device_options = {.clamp = DeviceLimits{.memory_budget = 8 << 20, .max_allocation = 1 << 30}}}));
    LmTrainerOptions options{.checkpoint_activations = true, .max_tokens = 6000};
    auto whole = LmTrainer::create(*small, source, options);
    REQUIRE_FALSE(whole);
    CAPTURE(whole.error().detail);
    CHECK(whole.error().code == ErrorCode::out_of_memory);
    CHECK(whole.error().detail.find("chunks may need fewer") != std::string::npos);
    options.max_chunk = 256;
    auto cut = LmTrainer::create(*small, source, options);
    CAPTURE(cut ? "" : cut.error().detail);
    CHECK(cut);
}

TEST_CASE("sums over as many tokens as chunks allow", "[train][lm][device][deep]") {
    const LmConfig config{
        .vocab_size = 3, .model_dim = 4, .layers = 1, .conv_kernel = 2, .hidden_dim = 4, .experts = 2, .top_k = 1};
    const std::vector<Sequence> one{Sequence(30000, 1)};
    std::optional<std::vector<float>> first;
    for (Engine* engine : test::engines())
        for (uint32_t chunk : {12000u, 7777u}) {
            CAPTURE(chunk, engine->device().info().name);
            auto trainer = must(LmTrainer::create(*engine, chunkModel(config), {.max_chunk = chunk}));
            must(trainer.accumulate(one));
            auto gradients = must(trainer.gradients());
            if (!first) first = gradients;
            CHECK(test::sameBits(gradients, *first));
        }
}

TEST_CASE("a value that is not finite is found at its token, in whichever chunk", "[train][lm]") {
    auto parameters = must(formats::initialLm(kShape, 5));
    parameters[size_t{9} * kShape.model_dim] = 0x1p62f;  // token 9, whose logit with itself is too large
    const auto source = must(formats::readEvl0(memorySource("model", must(formats::writeEvl0(kShape, parameters)))));
    Sequence sequence(70, 1);
    sequence[41] = 9;
    std::vector<std::vector<Sequence>> batch{{sequence}};
    for (uint32_t chunk : {0u, 13u}) {
        auto trainer = must(LmTrainer::create(*test::engines()[1], source, {.max_chunk = chunk}));
        auto failed = trainer.step(batch);
        REQUIRE_FALSE(failed);
        CAPTURE(failed.error().detail);
        CHECK(failed.error().detail.find("token 41") != std::string::npos);
    }
}
