// Training with experts in pages: the bits of training without, whatever the budget, and only used experts move.
#include <catch2/catch_get_random_seed.hpp>
#include <catch2/catch_test_macros.hpp>
#include <filesystem>
#include <random>

#include "engine/train/parameter_set.h"
#include "tests/engines.h"
#include "tests/moe/random_layer.h"
#include "tests/must.h"
#include "tests/small_files.h"
#include "tests/train/trained.h"
#include "vkmoe/layer_trainer.h"

using namespace vkmoe;
using test::must;

namespace {

constexpr uint32_t kPagedExperts = 12, kDim = 12, kBatch = 24;

Description shape(uint32_t kind) {
    Description d{.model_dim = kDim, .hidden_dim = 9 + 8 * kind, .experts = kPagedExperts, .top_k = 1 + kind % 2};
    d.score = Score::softmax_selected;
    if (kind == 0) d.activation = Activation::relu;
    d.router_bias = d.up_bias = d.down_bias = true;
    d.shared = Shared(kind % 3);
    if (d.shared != Shared::none) d.shared_dim = 7, d.shared_up_bias = true;
    return d;
}

// Batches of tokens that are nearly alike use few experts each; every fifth is alike throughout, every seventh is of
// all kinds.
std::vector<float> skewed(uint32_t batches, uint32_t seed) {
    std::mt19937 random(seed);
    std::uniform_real_distribution<float> any(-1, 1);
    std::vector<std::vector<float>> centres(5, std::vector<float>(kDim));
    for (auto& centre : centres)
        for (float& value : centre) value = 2 * any(random);
    std::vector<float> x;
    for (uint32_t b = 0; b < batches; ++b) {
        uint32_t centre = random() % 5;
        for (uint32_t t = 0; t < kBatch; ++t)
            for (uint32_t i = 0; i < kDim; ++i)
                x.push_back(b % 7 == 3 ? any(random) : centres[centre][i] + (b % 5 == 4 ? 0.0f : 0.05f * any(random)));
    }
    return x;
}

struct Trace {
    std::vector<double> losses;
    std::vector<std::vector<uint64_t>> tokens;
    std::vector<std::byte> weights;
    OptimizerState moments;
};

std::vector<std::byte> bytesOf(const formats::LayerSource& source) {
    std::vector<std::byte> all;
    for (const auto& tensor : source.tensors) {
        size_t at = all.size();
        all.resize(at + tensor.bytes);
        REQUIRE(source.bytes->read(tensor.offset, std::span(all).subspan(at)));
    }
    return all;
}

void addSteps(LayerTrainer& trainer, Trace& trace, std::span<const float> x, std::span<const float> y) {
    for (size_t at = 0; at < x.size(); at += kBatch * kDim) {
        auto result = must(trainer.epoch(x.subspan(at, kBatch * kDim), y.subspan(at, kBatch * kDim)));
        trace.losses.push_back(result.loss);
        trace.tokens.push_back(result.expert_tokens);
    }
}

void finish(LayerTrainer& trainer, Trace& trace) {
    trace.weights = bytesOf(must(trainer.weights()));
    trace.moments = must(trainer.save());
}

void checkSame(const Trace& got, const Trace& wanted) {
    CHECK(got.losses == wanted.losses);
    CHECK(got.tokens == wanted.tokens);
    CHECK(got.weights == wanted.weights);
    CHECK(got.moments.step == wanted.moments.step);
    CHECK(test::sameBits(got.moments.first, wanted.moments.first));
    CHECK(test::sameBits(got.moments.second, wanted.moments.second));
}

Trace train(Engine& engine, const formats::LayerSource& source, const LayerTrainerOptions& options,
            std::span<const float> x, std::span<const float> y) {
    auto trainer = must(LayerTrainer::create(engine, source, options));
    Trace trace;
    addSteps(trainer, trace, x, y);
    finish(trainer, trace);
    return trace;
}

uint64_t pageBytes(Engine& engine, const formats::LayerSource& source) {
    auto trainer = must(LayerTrainer::create(engine, source, {.paging = TrainingPaging{1 << 20, 0}}));
    return trainer.paging()->page_bytes;
}

uint64_t uses(const LayerTrainer& trainer) {
    PagerCounters c = trainer.paging()->counters;
    return c.tier1 + c.tier2 + c.tier3;
}

size_t expertsOf(const EpochResult& result) {
    return size_t(kPagedExperts - std::count(result.expert_tokens.begin(), result.expert_tokens.end(), uint64_t{0}));
}

}  // namespace

TEST_CASE("a step in pages has the bits of one without, whatever the budget", "[train][paging][device][deep]") {
    uint32_t seed = Catch::getSeed();
    const uint32_t steps = 12;
    std::string folder = std::filesystem::temp_directory_path().string();
    for (uint32_t kind = 0; kind < 5; ++kind) {
        auto layer =
            test::makeRandomLayer(shape(kind % 3), kind == 4 ? WeightFormat::bf16 : WeightFormat::f32, seed + kind);
        auto x = skewed(steps, seed + kind), y = test::randomTokens(steps * kBatch, kDim, seed + 9);
        LayerTrainerOptions options{.precision = kind < 3 ? Precision::exact : Precision::rounded,
                                    .aux_weight = kind == 1 ? 0.01f : 0.0f};
        const uint32_t least = kind < 3 ? 4 : 5;  // pages of an expert
        options.adamw.weight_decay = kind % 3 == 0 ? 0.0 : 0.05;
        options.adamw.max_norm = kind == 2 ? 0.02 : 0.0;
        for (Engine* engine : test::engines()) {
            CAPTURE(seed, kind, engine->device().info().name);
            if (!test::isHost(*engine) && kind != 1 && kind != 4) continue;  // pipelines take seconds
            Trace wanted = train(*engine, layer.source, options, x, y);
            const uint64_t page = pageBytes(*engine, layer.source);
            for (uint64_t pages : {least, 6u * kPagedExperts / 10, 2u * kPagedExperts, 7u * kPagedExperts})
                for (Placement placement : {Placement::flat, Placement::tiered}) {
                    bool tiered = placement == Placement::tiered;
                    if (!test::isHost(*engine) && (tiered ? pages > 24 : pages != least)) continue;
                    CAPTURE(pages, int(placement));
                    options.paging = TrainingPaging{.device_budget = (pages + 1) / 2 * page,
                                                    .host_budget = pages / 2 * page,
                                                    .policy = pages == least ? Policy::lru : Policy::automatic,
                                                    .placement = placement,
                                                    .scratch = tiered ? "" : folder};
                    checkSame(train(*engine, layer.source, options, x, y), wanted);
                    options.paging.reset();
                }
        }
    }
}

TEST_CASE("chunks of a batch leave what they have summed in pages", "[train][paging][device]") {
    uint32_t seed = Catch::getSeed();
    auto layer = test::makeRandomLayer(shape(1), WeightFormat::f32, seed);
    auto x = skewed(6, seed), y = test::randomTokens(6 * kBatch, kDim, seed + 1);
    for (Engine* engine : test::engines()) {
        CAPTURE(seed, engine->device().info().name);
        uint64_t page = pageBytes(*engine, layer.source);
        for (Precision precision : {Precision::exact, Precision::rounded}) {
            if (!test::isHost(*engine) && precision == Precision::rounded) continue;
            Trace wanted = train(*engine, layer.source, {.precision = precision}, x, y);
            for (uint32_t chunk : {7u, 23u})
                for (uint64_t pages : {5u, 30u}) {
                    CAPTURE(chunk, pages, name(precision));
                    if (!test::isHost(*engine) && (chunk != 7) != (pages != 5)) continue;
                    LayerTrainerOptions options{.precision = precision, .max_chunk = chunk};
                    options.paging = TrainingPaging{.device_budget = pages * page, .host_budget = 0};
                    checkSame(train(*engine, layer.source, options, x, y), wanted);
                }
        }
    }
}

TEST_CASE("only experts with tokens move, and they catch up with steps they missed", "[train][paging][device]") {
    uint32_t seed = 5;
    Description d = shape(1);
    auto layer = test::makeRandomLayer(d, WeightFormat::f32, seed);
    auto x = skewed(2, seed), y = test::randomTokens(2 * kBatch, kDim, seed);
    auto of = [](const std::vector<float>& all, size_t i) {
        return std::span(all).subspan(i * kBatch * kDim, kBatch * kDim);
    };
    for (Engine* engine : test::engines()) {
        CAPTURE(engine->device().info().name);
        LayerTrainerOptions options;
        options.adamw.weight_decay = 0.1;
        options.adamw.learning_rate = 0.001;
        auto plain = must(LayerTrainer::create(*engine, layer.source, options));
        uint64_t page = pageBytes(*engine, layer.source);
        options.paging = TrainingPaging{.device_budget = 8 * page, .host_budget = 0};
        auto paged = must(LayerTrainer::create(*engine, layer.source, options));
        Trace wanted, got;
        addSteps(plain, wanted, of(x, 1), of(y, 1));
        addSteps(paged, got, of(x, 1), of(y, 1));
        for (int step = 0; step < (test::isHost(*engine) ? 300 : 12); ++step) {  // 300: several submits of missed steps
            uint64_t before = uses(paged);
            auto result = must(paged.epoch(of(x, 0), of(y, 0)));
            must(plain.epoch(of(x, 0), of(y, 0)));
            // Forward, backward twice two, the norm, the step; gradients are zero afterwards.
            if (step > 5) CHECK(uses(paged) - before <= 10 * expertsOf(result) + 4);
            CHECK(expertsOf(result) < kPagedExperts);
        }
        addSteps(plain, wanted, of(x, 1), of(y, 1));
        addSteps(paged, got, of(x, 1), of(y, 1));
        finish(plain, wanted);
        finish(paged, got);
        checkSame(got, wanted);
    }
}

TEST_CASE("gradients that lead to no step leave nothing behind, and a saved state goes on", "[train][paging][device]") {
    uint32_t seed = Catch::getSeed();
    auto layer = test::makeRandomLayer(shape(1), WeightFormat::f32, seed);
    auto x = skewed(6, seed), y = test::randomTokens(6 * kBatch, kDim, seed + 1);
    const size_t half = x.size() / 2;
    for (Engine* engine : test::engines()) {
        CAPTURE(seed, engine->device().info().name);
        LayerTrainerOptions options;
        uint64_t page = pageBytes(*engine, layer.source);
        std::vector<Trace> traces;
        std::vector<std::string> faults;
        std::vector<std::vector<std::byte>> gradients;
        for (bool pages : {false, true}) {
            if (pages) options.paging = TrainingPaging{.device_budget = 9 * page, .host_budget = 0};
            auto trainer = must(LayerTrainer::create(*engine, layer.source, options));
            Trace& trace = traces.emplace_back();
            addSteps(trainer, trace, std::span(x).first(half), std::span(y).first(half));
            for (float target :
                 {2.5e9f, 0x1p62f}) {  // gradients that cannot be squared, at times; that cannot be at all
                auto spoiled = y;
                for (size_t i = 0; i < spoiled.size(); i += kDim) spoiled[i] = target;
                auto refused = trainer.epoch(x, spoiled);
                if (target == 0x1p62f) REQUIRE_FALSE(refused);
                faults.push_back(refused ? "" : refused.error().detail);
            }
            gradients.push_back(bytesOf(must(trainer.backward(x, y)).gradients));
            auto weights = must(trainer.weights());
            auto state = must(trainer.save());
            auto resumed = must(LayerTrainer::create(*engine, weights, options));
            REQUIRE(resumed.restore(state, trainer.samplesSeen()));
            Trace other = trace;
            for (auto* pair : {&trainer, &resumed}) {
                Trace& into = pair == &trainer ? trace : other;
                addSteps(*pair, into, std::span(x).subspan(half), std::span(y).subspan(half));
                finish(*pair, into);
            }
            checkSame(other, trace);
            OptimizerState shorter = state;
            shorter.first.pop_back();
            CHECK_FALSE(resumed.restore(shorter, 0));
        }
        checkSame(traces[1], traces[0]);
        CHECK(faults[2] == faults[0]);
        CHECK(faults[3] == faults[1]);
        CHECK(gradients[1] == gradients[0]);
    }
}

TEST_CASE("what paged training cannot do, it says", "[train][paging]") {
    Engine& engine = *test::engines().front();
    auto layer = test::makeRandomLayer(shape(1), WeightFormat::f32, 1);
    auto refused = [&](Precision precision, const TrainingPaging& paging) {
        auto made = LayerTrainer::create(engine, layer.source, {.precision = precision, .paging = paging});
        REQUIRE_FALSE(made);
        return made.error();
    };
    uint64_t page = pageBytes(engine, layer.source);
    Error rounded = refused(Precision::rounded, {.device_budget = 4 * page, .host_budget = 0});
    CHECK(rounded.detail.find("an expert in training needs 5") != std::string::npos);
    Error small = refused(Precision::exact, {.device_budget = 3 * page, .host_budget = page - 1});
    CHECK(small.code == ErrorCode::out_of_memory);
    CAPTURE(small.detail);
    CHECK(small.detail.find("an expert in training needs 4") != std::string::npos);
    TrainingPaging nowhere{.device_budget = 1 << 20, .host_budget = 0, .scratch = "/nowhere/at all"};
    Error folder = refused(Precision::exact, nowhere);
    CHECK(folder.code == ErrorCode::io);
    CHECK(folder.detail.starts_with("/nowhere/at all: no scratch file for pages can be made there: "));
}

TEST_CASE("a full disk ends paged training with a sentence, and nothing goes on from half a step", "[train][paging]") {
    Engine& engine = *test::engines().front();
    auto layer = test::makeRandomLayer(shape(1), WeightFormat::f32, 1);
    auto x = skewed(8, 1), y = test::randomTokens(8 * kBatch, kDim, 2);
    uint64_t page = pageBytes(engine, layer.source);
    LayerTrainerOptions options;
    options.paging = TrainingPaging{
        .device_budget = 4 * page, .host_budget = 0, .scratch = std::filesystem::temp_directory_path().string()};
    auto trainer = must(LayerTrainer::create(engine, layer.source, options));
    test::SmallFiles limit(14 * page);
    std::string first;
    for (int i = 0; i < 3; ++i) {
        auto step = trainer.epoch(x, y, {.batch_size = kBatch});
        REQUIRE_FALSE(step);
        CHECK(step.error().code == ErrorCode::io);
        CHECK(step.error().detail.find("cannot be written: File too large") != std::string::npos);
        if (i == 0) first = step.error().detail;
        CHECK(step.error().detail == first);
    }
    CHECK_FALSE(trainer.weights());
    CHECK_FALSE(trainer.save());
    options.paging->device_budget = 1 << 20;
    REQUIRE(LayerTrainer::create(engine, layer.source, options));  // the weights alone do fit
    test::SmallFiles less(3 * page);
    CHECK(LayerTrainer::create(engine, layer.source, options).error().code == ErrorCode::io);
}
