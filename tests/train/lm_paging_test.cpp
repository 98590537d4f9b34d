// Training a language model with experts in pages: the bits of training without, whatever the budgets.
#include <catch2/catch_get_random_seed.hpp>
#include <catch2/catch_test_macros.hpp>
#include <filesystem>
#include <random>

#include "engine/formats/evl0.h"
#include "tests/engines.h"
#include "tests/must.h"
#include "tests/small_files.h"
#include "tests/train/lm_run.h"
#include "vkmoe/lm_trainer.h"

using namespace vkmoe;
using test::must;

namespace {

constexpr uint32_t kVocabulary = 31;
const LmConfig kConfig{.vocab_size = kVocabulary,
                       .model_dim = 12,
                       .layers = 3,
                       .conv_kernel = 3,
                       .hidden_dim = 17,
                       .experts = 7,
                       .top_k = 2};
constexpr uint64_t kExperts = 3 * 7;
using Batches = std::vector<std::vector<Sequence>>;

formats::LmSource model(uint32_t seed) {
    return must(formats::readEvl0(
        memorySource("model", must(formats::writeEvl0(kConfig, must(formats::initialLm(kConfig, seed)))))));
}

// Sequences of few tokens, so that some experts have none.
std::vector<Sequence> sequences(std::mt19937& random, uint32_t count) {
    std::vector<Sequence> all(count);
    for (Sequence& sequence : all) {
        uint32_t first = random() % kVocabulary;
        sequence.resize(1 + random() % 9);
        for (uint32_t& token : sequence) token = (first + random() % 2) % kVocabulary;
    }
    all.front().resize(5, 3);  // one that counts
    return all;
}

Batches step(uint32_t seed) {
    std::mt19937 random(seed);
    if (seed % 3 == 0) return {sequences(random, 3)};
    return {sequences(random, 2), sequences(random, 1), {Sequence{1}}, sequences(random, 2)};
}

void addSteps(LmTrainer& trainer, test::LmRun& run, uint32_t first, uint32_t last) {
    for (uint32_t i = first; i < last; ++i) {
        LmStep done = must(trainer.step(step(i)));
        run.numbers.insert(run.numbers.end(), {done.loss, done.grad_norm, double(done.skipped)});
        run.tokens.push_back(done.expert_tokens);
    }
}

void addState(LmTrainer& trainer, test::LmRun& run) {
    LmTrainerState state = must(trainer.state());
    run.numbers.insert(run.numbers.end(), {double(state.step), state.loss_scale, double(state.loss_streak)});
    run.values.insert(run.values.end(), {must(trainer.parameters()), state.parameters, state.first, state.second});
}

test::LmRun train(Engine& engine, const LmTrainerOptions& options, uint32_t seed, uint32_t steps) {
    auto trainer = must(LmTrainer::create(engine, model(seed), options));
    test::LmRun run;
    addSteps(trainer, run, 0, steps);
    std::mt19937 random(seed);
    auto some = sequences(random, 4), more = sequences(random, 3);
    run.numbers.push_back(must(trainer.evaluate(some)));
    run.numbers.push_back(must(trainer.accumulate(some)));
    run.values.push_back(must(trainer.gradients()));
    run.numbers.push_back(must(trainer.accumulate(more, false)));
    run.values.push_back(must(trainer.gradients()));
    addSteps(trainer, run, steps, steps + 1);
    addState(trainer, run);
    return run;
}

uint64_t pageBytes() {
    auto trainer = must(LmTrainer::create(*test::engines().front(), model(1), {.paging = TrainingPaging{1 << 20, 0}}));
    return trainer.paging()->page_bytes;
}

TrainingPaging budgets(uint64_t pages, Placement placement, const std::string& scratch = "") {
    static const uint64_t bytes = pageBytes();
    return {.device_budget = (pages + 1) / 2 * bytes,
            .host_budget = pages / 2 * bytes,
            .policy = pages < 6 ? Policy::lru : Policy::automatic,
            .placement = placement,
            .scratch = scratch};
}

std::string temporary() { return std::filesystem::temp_directory_path().string(); }

}  // namespace

TEST_CASE("a language model trained in pages has the bits of one trained without",
          "[train][lm][paging][device][deep]") {
    const uint32_t seed = Catch::getSeed();
    for (Engine* engine : test::engines())
        for (bool recompute : {false, true}) {
            if (!test::isHost(*engine) && recompute) continue;
            LmTrainerOptions options{.precision = recompute ? Precision::rounded : Precision::exact,
                                     .aux_weight = recompute ? 0.0f : 0.01f,
                                     .z_weight = recompute ? 0.0f : 0.001f,
                                     .checkpoint_activations = recompute};
            options.adamw.weight_decay = recompute ? 0.0 : 0.05;
            options.adamw.max_norm = 0.3;
            const test::LmRun wanted = train(*engine, options, seed, 5);
            for (uint64_t pages : {uint64_t{5}, kExperts, 4 * kExperts}) {
                if (!test::isHost(*engine) && pages != 5) continue;
                for (Placement placement : {Placement::flat, Placement::tiered}) {
                    const bool in_file = (placement == Placement::tiered) == recompute;
                    CAPTURE(seed, engine->device().info().name, recompute, pages, int(placement), in_file);
                    options.paging = budgets(pages, placement, in_file ? temporary() : "");
                    test::checkSame(train(*engine, options, seed, 5), wanted);
                }
            }
        }
}

TEST_CASE("gradients in pages pass through float16 as the others do", "[train][lm][paging]") {
    const uint32_t seed = Catch::getSeed();
    Engine& engine = *test::engines()[1];
    for (double initial : {0x1p2, 0x1p19}) {  // every step is made; some are left out
        CAPTURE(seed, initial);
        LmTrainerOptions options{.loss_scaling = true, .scaler = {.initial = initial, .backoff = 0x1p-12}};
        const test::LmRun wanted = train(engine, options, seed, 6);
        options.paging = budgets(9, Placement::tiered);
        test::checkSame(train(engine, options, seed, 6), wanted);
        int left_out = 0;
        for (size_t i = 0; i < 6; ++i) left_out += wanted.numbers[3 * i + 2] == 1;
        CHECK(left_out < 6);
        CHECK((left_out > 0) == (initial > 4));
    }
}

TEST_CASE("a run goes on from another's state, in pages or not", "[train][lm][paging]") {
    const uint32_t seed = Catch::getSeed();
    for (Engine* engine : {test::engines()[0], test::engines()[1]})
        for (double decay : {0.0, 0.1}) {
            CAPTURE(seed, decay, engine->device().info().name);
            LmTrainerOptions options[2];
            for (auto& each : options) {
                each.adamw.weight_decay = decay;
                each.precision = decay == 0 ? Precision::rounded : Precision::exact;
            }
            options[1].paging = budgets(11, Placement::flat, temporary());
            std::vector<LmTrainer> trainers;
            for (const auto& each : options) trainers.push_back(must(LmTrainer::create(*engine, model(seed), each)));
            test::LmRun first[2], second[4];
            for (int i = 0; i < 2; ++i) addSteps(trainers[size_t(i)], first[i], 0, 3);
            LmTrainerState states[2] = {must(trainers[0].state()), must(trainers[1].state())};
            for (int from = 0; from < 2; ++from)
                for (int to = 0; to < 2; ++to) {
                    CAPTURE(from, to);
                    // Into a new trainer, or one that has gone elsewhere.
                    auto trainer = must(LmTrainer::create(*engine, model(seed + 1), options[to]));
                    if (from == to) must(trainer.step(step(40)));
                    if (from == to) must(trainer.accumulate(step(41)[0]));
                    REQUIRE(trainer.restore(states[from]));
                    test::LmRun& run = second[2 * from + to];
                    addSteps(trainer, run, 3, 6);
                    addState(trainer, run);
                }
            addSteps(trainers[0], first[0], 3, 6);
            test::LmRun whole;
            whole.numbers.assign(first[0].numbers.begin() + 9, first[0].numbers.end());
            whole.tokens.assign(first[0].tokens.begin() + 3, first[0].tokens.end());
            addState(trainers[0], whole);
            for (const test::LmRun& run : second) test::checkSame(run, whole);
            auto shorter = states[0];
            shorter.second.pop_back();
            CHECK_FALSE(trainers[1].restore(shorter));
            auto wrong = states[0];
            wrong.parameters.back() = std::numeric_limits<float>::quiet_NaN();
            auto refused = trainers[1].restore(wrong);
            REQUIRE_FALSE(refused);
            CHECK(refused.error().detail.find("parameter") != std::string::npos);
            REQUIRE(trainers[1].restore(states[1]));  // neither did harm
        }
}

TEST_CASE("what a layer needs next is read ahead, and every use is in the trace", "[train][lm][paging]") {
    auto engine = must(Engine::open({.device = "cpu"}));
    test::LmRun runs[2];
    std::vector<Visit> visits[2];
    PagingReport reports[2];
    for (bool prefetch : {false, true}) {
        LmTrainerOptions options{.paging = budgets(2 * kExperts, Placement::flat, temporary())};
        options.paging->prefetch = prefetch;
        options.paging->trace = true;
        auto trainer = must(LmTrainer::create(*engine, model(7), options));
        for (uint32_t i = 0; i < 6; ++i) {
            LmStep done = must(trainer.step(step(3)));
            runs[prefetch].numbers.push_back(done.loss);
        }
        runs[prefetch].values.push_back(must(trainer.parameters()));
        reports[prefetch] = *trainer.paging();
        visits[prefetch].assign(trainer.visits().begin(), trainer.visits().end());
        REQUIRE(trainer.pager() != nullptr);
        const PageGroups& groups = trainer.pager()->groups();
        for (const Visit& visit : visits[prefetch]) {
            REQUIRE_FALSE(visit.pages.empty());
            for (PageId page : visit.pages) CHECK(groups.of(page) == visit.group);
        }
    }
    test::checkSame(runs[true], runs[false]);
    CHECK(reports[false].counters.prefetched == 0);
    CHECK(reports[true].counters.prefetched > 0);
    CHECK(reports[true].counters.prefetch_used > 0);
    uint64_t uses = 0;
    for (const Visit& visit : visits[true]) uses += visit.pages.size();
    const PagerCounters& counted = reports[true].counters;
    CHECK(uses == counted.tier1 + counted.tier2 + counted.tier3);
    REQUIRE(visits[true].size() == visits[false].size());
    for (size_t i = 0; i < visits[true].size(); ++i) {
        CHECK(visits[true][i].group == visits[false][i].group);
        CHECK(visits[true][i].pages == visits[false][i].pages);
    }
}

TEST_CASE("a model's experts share the budgets, and only those with tokens move", "[train][lm][paging]") {
    LmTrainerOptions options{.max_tokens = 64, .paging = budgets(4 * kExperts, Placement::flat)};
    auto engine = must(Engine::open({.device = "cpu"}));
    auto trainer = must(LmTrainer::create(*engine, model(3), options));
    must(trainer.step(step(0)));
    auto before = trainer.paging()->counters;
    LmStep done = must(trainer.step(Batches{{Sequence{3, 3, 3, 3}}}));
    auto after = trainer.paging()->counters;
    CHECK(trainer.paging()->pages == 4 * kExperts);
    CHECK(after.evictions == 0);
    size_t used = kExperts - size_t(std::count(done.expert_tokens.begin(), done.expert_tokens.end(), uint64_t{0}));
    CHECK(used < kExperts);
    // Forward, missed steps, backward twice two, the norm, the step.
    CHECK(after.tier1 + after.tier2 + after.tier3 - before.tier1 - before.tier2 - before.tier3 <= 14 * used);
    TrainingMemory memory = trainer.memory(64);
    CHECK(memory.pages == 4 * kExperts * pageBytes());
    CHECK(double(trainer.peakBytes()) <= 1.1 * double(memory.total()));
}

TEST_CASE("what training a language model in pages cannot do, it says", "[train][lm][paging]") {
    Engine& engine = *test::engines().front();
    auto refused = [&](Precision precision, const TrainingPaging& paging) {
        auto made = LmTrainer::create(engine, model(1), {.precision = precision, .paging = paging});
        REQUIRE_FALSE(made);
        return made.error();
    };
    Error rounded = refused(Precision::rounded, budgets(4, Placement::flat));
    CHECK(rounded.code == ErrorCode::out_of_memory);
    CHECK(rounded.detail.find("an expert in training needs 5") != std::string::npos);
    Error small = refused(Precision::exact, budgets(3, Placement::flat));
    CHECK(small.code == ErrorCode::out_of_memory);
    CAPTURE(small.detail);
    CHECK(small.detail.find("hold 3 pages") != std::string::npos);
    CHECK(small.detail.find("an expert in training needs 4") != std::string::npos);

    LmTrainerOptions options{.paging = budgets(4, Placement::flat, temporary())};
    auto trainer = must(LmTrainer::create(engine, model(1), options));
    test::SmallFiles limit(8 * pageBytes());  // a full disk
    auto failed = trainer.step(step(1));
    REQUIRE_FALSE(failed);
    CHECK(failed.error().code == ErrorCode::io);
    CHECK_FALSE(trainer.step(step(1)));
    CHECK_FALSE(trainer.parameters());
    CHECK_FALSE(trainer.state());
}
