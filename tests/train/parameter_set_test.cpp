// ParameterSet: shards, clipping, pages left out, gradients that are not finite, checkpoints, budgets.
#include "engine/train/parameter_set.h"

#include <catch2/catch_test_macros.hpp>
#include <cmath>
#include <limits>

#include "tests/engines.h"
#include "tests/train/trained.h"

using namespace vkmoe;
using test::sequence;
using test::Trained;
using test::TrainedShape;

namespace {

const AdamwOptions kDecay{.learning_rate = 0.02, .weight_decay = 0.05};
constexpr size_t kCount = 70000 + 3 + 64 + 1 + 17;
const TrainedShape kShape{.slabs = {{70000, 3}, {64, 1, 17}}, .gap = 5};  // more and less than a group of grad_squares

std::vector<float> gradsOf(uint32_t step) {
    auto grads = sequence(100 + step, kCount);
    for (size_t i = 0; i < kCount; i += 7) grads[i] *= 0x1p-30f;
    return grads;
}

TrainedShape shardOf(uint32_t index, uint32_t count) {
    TrainedShape shape = kShape;
    shape.shard = {index, count};
    return shape;
}

double lengthOf(const std::vector<float>& values) {
    double sum = 0;
    for (float x : values) sum += double(x) * double(x);
    return std::sqrt(sum);
}

void makeSteps(Trained& trained, uint32_t first, uint32_t end, const AdamwOptions& options = kDecay) {
    for (uint32_t step = first; step < end; ++step) {
        trained.setGrads(gradsOf(step));
        REQUIRE(trained.step(options, 0.25));
    }
}

}  // namespace

TEST_CASE("the steps of all shards together are the whole step, bit for bit", "[optimizer][device]") {
    const auto start = sequence(1, kCount);
    const size_t sizes[] = {70000, 3, 64, 1, 17};
    std::vector<float> first;
    for (Engine* engine : test::engines()) {
        CAPTURE(engine->device().info().name);
        Trained whole(*engine, kShape, start);
        makeSteps(whole, 0, 3);
        const auto wanted = whole.weights();
        if (first.empty()) first = wanted;
        CHECK(test::sameBits(first, wanted));
        for (uint32_t count : {2u, 3u, 7u}) {
            uint64_t state = 0;
            for (uint32_t index = 0; index < count; ++index) {
                Trained part(*engine, shardOf(index, count), start);
                makeSteps(part, 0, 3);
                state += part.set().stateBytes();
                const auto got = part.weights();
                size_t at = 0, wrong = 0;
                for (uint32_t t = 0; t < 5; at += sizes[t++])
                    for (size_t i = at; i < at + sizes[t]; ++i)
                        wrong += got[i] != (t % count == index ? wanted : start)[i];
                CAPTURE(count, index);
                CHECK(wrong == 0);
            }
            CHECK(state == 8 * kCount);
        }
    }
    for (Shard shard : {Shard{2, 2}, Shard{0, 0}}) {
        auto refused = ParameterSet::create(*test::engines()[0], {}, shard);
        REQUIRE_FALSE(refused);
        CHECK(refused.error().code == ErrorCode::bad_input);
    }
}

TEST_CASE("gradients are clipped by the length of all of them", "[optimizer][device]") {
    const auto start = sequence(1, kCount);
    auto grads = gradsOf(0);
    for (Engine* engine : test::engines()) {
        CAPTURE(engine->device().info().name);
        Trained clipped(*engine, kShape, start), by_hand(*engine, kShape, start), unclipped(*engine, kShape, start);
        clipped.setGrads(grads);
        GradNorm norm = clipped.norm(0.5f);
        REQUIRE(norm.finite());
        CHECK(std::abs(norm.norm / (0.5 * lengthOf(grads)) - 1) < 1e-6);
        AdamwOptions options{.max_norm = norm.norm / 3};
        double clip = clipFactor(options, norm.norm);
        CHECK(std::abs(clip - 1 / 3.0) < 1e-15);
        REQUIRE(clipped.step(options, 0.5, clip));
        auto scaled = grads;
        for (float& g : scaled) g = (g * 0.5f) * float(clip);
        by_hand.setGrads(scaled);
        CHECK(std::abs(by_hand.norm().norm / options.max_norm - 1) < 1e-6);
        REQUIRE(by_hand.step(options));
        CHECK(test::sameBits(clipped.weights(), by_hand.weights()));
        unclipped.setGrads(grads);
        REQUIRE(unclipped.step(options, 0.5));
        CHECK_FALSE(test::sameBits(clipped.weights(), unclipped.weights()));
    }
}

TEST_CASE("the norm of few gradients, of one and of none", "[optimizer][device]") {
    for (Engine* engine : test::engines()) {
        Trained one(*engine, {.slabs = {{1}}}, {1});
        one.setGrads({-3});
        CHECK(one.norm().norm == 3);
        CHECK(one.norm(2).norm == 6);
        one.setGrads({0});
        CHECK(one.norm().norm == 0);
        Trained none(*engine, {}, {});
        CHECK(none.norm().norm == 0);
        REQUIRE(none.step({}));
        for (uint32_t count : {63u, 64u, 65u, 2047u, 2049u, 65535u, 65536u, 65537u}) {
            CAPTURE(count);
            Trained set(*engine, {.slabs = {{count}}}, sequence(1, count));
            set.setGrads(std::vector<float>(count, 1.0f));
            CHECK(set.norm().norm == std::sqrt(double(count)));
        }
    }
}

TEST_CASE("the norm of many gradients has the same bits on every device", "[optimizer][device]") {
    const uint32_t count = 4 * 65536 + 65536 / 2 + 77;  // the CPU takes four groups at a time
    auto grads = sequence(7, count);
    for (size_t i = 0; i < count; i += 3) grads[i] *= 0x1p-38f;
    const double length = lengthOf(grads);
    std::vector<double> norms;
    for (Engine* engine : test::engines()) {
        CAPTURE(engine->device().info().name);
        Trained set(*engine, {.slabs = {{count}}}, grads);
        set.setGrads(grads);
        norms.push_back(set.norm().norm);
        CHECK(norms.back() == norms.front());
        CHECK(std::abs(norms.back() / length - 1) < 1e-6);
        auto wrong = grads;
        wrong[3 * 65536 + 12345] = wrong[4 * 65536 + 1] = 1e20f;
        set.setGrads(wrong);
        CHECK(set.norm().fault.ends_with("the first in tensor 0, word 208953"));
    }
}

TEST_CASE("pages without gradients are left out with the same bits, unless weights decay", "[optimizer][device]") {
    const std::vector<uint32_t> touched = {0, 1, 1, 0, 1};
    auto start = sequence(5, 5 * 333);
    for (size_t i = 0; i < start.size(); i += 4) start[i] *= 0x1p-90f;  // biases too small for operands
    TrainedShape all{.slabs = {{333, 333, 333, 333, 333}}}, some = all;
    some.touched = touched;
    for (Engine* engine : test::engines())
        for (double decay : {0.0, 0.1}) {
            CAPTURE(engine->device().info().name, decay);
            Trained whole(*engine, all, start), skipping(*engine, some, start);
            for (uint32_t step = 0; step < 3; ++step) {
                auto grads = sequence(50 + step, start.size());
                for (size_t i = 0; i < grads.size(); ++i) grads[i] *= float(touched[i / 333]);
                for (Trained* trained : {&whole, &skipping}) {
                    trained->setGrads(grads);
                    REQUIRE(trained->step({.weight_decay = decay}));
                }
            }
            CHECK(test::sameBits(whole.weights(), skipping.weights()));
            auto a = whole.set().save(), b = skipping.set().save();
            REQUIRE(a);
            REQUIRE(b);
            CHECK(test::sameBits(a->first, b->first));
            CHECK(test::sameBits(a->second, b->second));
            CHECK((skipping.weights()[1] == start[1]) == (decay == 0));
        }
}

TEST_CASE("gradients that are not finite are named, and a step left out changes nothing", "[optimizer][device]") {
    const auto start = sequence(1, kCount);
    const float wrong[] = {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::quiet_NaN(), 1e30f};
    for (Engine* engine : test::engines()) {
        CAPTURE(engine->device().info().name);
        Trained trained(*engine, kShape, start);
        LossScaler scaler;
        for (float x : wrong) {
            auto grads = gradsOf(0);
            grads[70001] = grads[70002] = x;
            trained.setGrads(grads);
            GradNorm norm = trained.norm(float(1 / scaler.scale()));
            CHECK_FALSE(norm.finite());
            CHECK(norm.fault ==
                  "slab 0: 2 gradients are not finite or their squares not below 2^63, the first in tensor 1, word 1");
            CHECK_FALSE(scaler.update(norm.finite()));
        }
        CHECK(scaler.scale() == 2048);
        CHECK(test::sameBits(trained.weights(), start));
        auto state = trained.set().save();
        REQUIRE(state);
        CHECK(state->step == 0);
        trained.setGrads(gradsOf(0));
        CHECK(trained.norm().finite());
        CHECK(trained.step({}));
        auto grads = gradsOf(1);
        grads[70003 + 64] = 1e30f;
        trained.setGrads(grads);
        auto refused = trained.step({});
        REQUIRE_FALSE(refused);
        CHECK(refused.error().detail ==
              "slab 1: 1 weights or moments are not finite or not below 2^63 after step 2, the first in tensor 3, word "
              "0");
    }
}

TEST_CASE("training goes on from a checkpoint with the same bits", "[optimizer][device]") {
    const auto start = sequence(1, kCount);
    for (Engine* engine : test::engines())
        for (const TrainedShape& shape : {kShape, shardOf(1, 2)}) {
            CAPTURE(engine->device().info().name, shape.shard.count);
            Trained through(*engine, shape, start);
            makeSteps(through, 0, 2);
            auto state = through.set().save();
            REQUIRE(state);
            CHECK(state->step == 2);
            CHECK(state->first.size() * 8 == through.set().stateBytes());
            Trained resumed(*engine, shape, through.weights());
            REQUIRE(resumed.set().restore(*state));
            for (Trained* trained : {&through, &resumed}) makeSteps(*trained, 2, 4);
            CHECK(test::sameBits(through.weights(), resumed.weights()));
            CHECK(resumed.set().step() == 4);

            OptimizerState shorter = *state, negative = *state, infinite = *state;
            shorter.first.pop_back();
            negative.second[1] = -1;
            infinite.first[2] = std::numeric_limits<float>::infinity();
            for (const OptimizerState& bad : {shorter, negative, infinite}) CHECK_FALSE(resumed.set().restore(bad));
            CHECK(resumed.set().step() == 4);
        }
}

TEST_CASE("training that does not fit says how much it needs", "[optimizer]") {
    DeviceLimits small = openCpuDevice()->info().limits;
    small.memory_budget = 1 << 20;
    auto engine = Engine::open({.device = "cpu", .device_options = {.clamp = small}});
    REQUIRE(engine);
    ParameterSlab slab{.name = "experts", .words = 100000};
    slab.tensors.push_back({"w", 0, 0, 100000});
    auto set = ParameterSet::create(**engine, {slab});
    REQUIRE_FALSE(set);
    CHECK(set.error().code == ErrorCode::out_of_memory);
    CHECK(
        set.error().detail ==
        "training needs 1200000 bytes beside the weights, 400000 for gradients and 800000 for moments; 0 of the budget "
        "of 1048576 bytes are in use");
    CHECK((*engine)->device().ledger().used() == 0);
    CHECK(ParameterSet::create(**engine, {slab}, {1, 2}));  // a shard that owns nothing needs no moments
}
