// Experts computed on the CPU beside the device: the same bits and the same errors, whoever computes what.
#include <catch2/catch_approx.hpp>
#include <catch2/catch_get_random_seed.hpp>
#include <catch2/catch_test_macros.hpp>
#include <cstring>
#include <random>

#include "engine/formats/model_source.h"
#include "engine/moe/cost_model.h"
#include "tests/engines.h"
#include "tests/moe/random_layer.h"
#include "tests/paging/pages.h"
#include "vkmoe/stack.h"

using namespace vkmoe;
using Catch::Approx;

namespace {

constexpr uint32_t kDim = 32, kExperts = 10;

// Every activation and every weight format, with some biases; the kernels are those that other tests have, too.
formats::ModelSource everyKind() {
    const WeightFormat formats[] = {WeightFormat::f32, WeightFormat::f16, WeightFormat::bf16, WeightFormat::mxfp4};
    const Activation activations[] = {Activation::gelu_glu, Activation::relu, Activation::silu_glu,
                                      Activation::clamped_swiglu};
    formats::ModelSource model;
    model.stack = true;
    for (uint32_t i = 0; i < 4; ++i) {
        Description d{.model_dim = kDim, .hidden_dim = 32, .experts = kExperts, .top_k = 1 + i};
        d.renormalize = true;
        d.activation = activations[i];
        if (i == 0) d.hidden_dim = 37;
        d.up_bias = i != 2;
        d.down_bias = i == 1 || i == 3;
        d.gate_bias = i == 3;
        if (i == 2) d.shared = Shared::plain, d.shared_dim = 32;
        model.layers.push_back(test::makeRandomLayer(d, formats[i], 90 + i).source);
    }
    return model;
}

bool same(const StackResult& a, const StackResult& b) {
    auto bits = [](const std::vector<float>& x, const std::vector<float>& y) {
        return x.size() == y.size() && std::memcmp(x.data(), y.data(), x.size() * 4) == 0;
    };
    bool equal = bits(a.output, b.output) && a.layers.size() == b.layers.size();
    for (size_t i = 0; equal && i < a.layers.size(); ++i) {
        const auto &x = a.layers[i], &y = b.layers[i];
        equal = x.routes.experts == y.routes.experts && bits(x.routes.gates, y.routes.gates) &&
                x.introspection.load_balance_loss == y.introspection.load_balance_loss;
        for (size_t e = 0; equal && e < x.introspection.experts.size(); ++e) {
            const auto &p = x.introspection.experts[e], &q = y.introspection.experts[e];
            equal = p.tokens == q.tokens && p.output_rms == q.output_rms && p.quiet_fraction == q.quiet_fraction &&
                    p.mean_gate == q.mean_gate;
        }
    }
    return equal;
}

PagingOptions budgets(uint64_t page, uint64_t slots, Placement placement, HostCompute host) {
    return {.device_budget = slots / 2 * page,
            .host_budget = (slots - slots / 2) * page,
            .placement = placement,
            .host_compute = host};
}

}  // namespace

// ---- bits -----------------------------------------------------------------------------------------------------------

namespace {

struct Run {
    Precision precision;
    size_t tokens;
};

// Paged as told: the bits expected, and the host's share is what was asked for.
void checkBits(Engine& engine, const formats::ModelSource& model, const PagingOptions& options, const Run& run,
               const StackResult& expected, std::span<const float> x) {
    CAPTURE(int(run.precision), run.tokens, *options.device_budget, *options.host_budget, int(options.placement),
            int(options.host_compute));
    auto paged = Stack::create(engine, model, options);
    REQUIRE(paged);
    for (uint32_t batch : {0u, 15u}) {
        auto result = paged->forward(x, {.precision = run.precision, .max_batch = batch});
        REQUIRE(result);
        CHECK(same(*result, expected));
        uint64_t there = result->paging->counters.host_computed;
        if (options.host_compute == HostCompute::never || test::isHost(engine)) CHECK(there == 0);
        if (options.host_compute == HostCompute::always && !test::isHost(engine)) CHECK(there > 0);
    }
    // Small batches of a warm stack, over a slow bus, are the host's business.
    if (options.speeds) CHECK(paged->pager()->counters().host_computed > 0);
}

}  // namespace

TEST_CASE("experts that the host computes have the device's bits", "[paging][device][deep]") {
    auto model = everyKind();
    auto all = test::randomTokens(37, kDim, 3);
    // A row an expert and less; tiles, of more than one batch.
    const Run runs[] = {{Precision::exact, 2}, {Precision::rounded, 37}};
    for (Engine* engine : test::engines()) {
        INFO(engine->device().info().name);
        auto unpaged = Stack::create(*engine, model);
        REQUIRE(unpaged);
        uint64_t page = test::slotBytes(*engine, model);
        for (const Run& run : runs) {
            // A driver takes half a minute to compile what one of the two needs.
            if (!test::isHost(*engine) && &run != &runs[Catch::getSeed() % 2]) continue;
            auto x = std::span(all).first(run.tokens * kDim);
            auto expected = unpaged->forward(x, {.precision = run.precision});
            REQUIRE(expected);
            auto check = [&](uint64_t slots, Placement placement, HostCompute host) {
                checkBits(*engine, model, budgets(page, slots, placement, host), run, *expected, x);
            };
            for (uint64_t slots : {1, 4, 20}) check(slots, Placement::tiered, HostCompute::always);
            if (test::isHost(*engine)) continue;
            for (uint64_t slots : {1, 4, 20}) check(slots, Placement::flat, HostCompute::always);
            for (Placement placement : {Placement::flat, Placement::tiered})
                for (HostCompute host : {HostCompute::never, HostCompute::automatic}) check(4, placement, host);
            auto slow_bus = budgets(page, 4, Placement::automatic, HostCompute::automatic);
            slow_bus.speeds = MemorySpeeds{1e12, 1e6, 1e6};
            checkBits(*engine, model, slow_bus, run, *expected, x);
            // Copies arrive while the host computes.
            for (uint64_t slots : {4, 12, 20}) {
                auto beside = budgets(page, slots, Placement::tiered, HostCompute::always);
                beside.speeds = MemorySpeeds{.transfer_queue = true};
                auto paged = Stack::create(*engine, model, beside);
                REQUIRE(paged);
                for (uint32_t batch : {1u, 7u, 1u}) {
                    auto result = paged->forward(x, {.precision = run.precision, .max_batch = batch});
                    REQUIRE(result);
                    CHECK(same(*result, *expected));
                }
            }
        }
    }
}

TEST_CASE("tiers are one where the device reads the host's memory as fast as its own", "[paging][device]") {
    auto model = everyKind();
    for (Engine* engine : test::engines()) {
        INFO(engine->device().info().name);
        for (double share : {0.1, 0.79, 0.81, 1.0, 1.2}) {
            CAPTURE(share);
            PagingOptions options{.device_budget = 1 << 16, .host_budget = 1 << 16};
            options.speeds = MemorySpeeds{1e11, 1e11 * share, 1e10};
            auto paged = Stack::create(*engine, model, options);
            REQUIRE(paged);
            CHECK(paged->pager()->flat() == (share >= 0.8 || test::isHost(*engine)));
        }
    }
}

TEST_CASE("without introspection, with forced routes, and layer by layer: the host's experts have the same bits",
          "[paging][device]") {
    Description d{.model_dim = kDim, .hidden_dim = 32, .experts = kExperts, .top_k = 2};
    for (Dispatch dispatch : {Dispatch::dropless, Dispatch::capacity, Dispatch::fixed_budget}) {
        d.dispatch = dispatch;
        d.score = dispatch == Dispatch::fixed_budget ? Score::softmax_selected : Score::softmax;
        formats::ModelSource model;
        model.stack = true;
        for (uint32_t i = 0; i < 2; ++i)
            model.layers.push_back(test::makeRandomLayer(d, WeightFormat::f32, 40 + i).source);
        auto x = test::randomTokens(21, kDim, 8);
        for (Engine* engine : test::engines()) {
            INFO(engine->device().info().name);
            CAPTURE(int(dispatch));
            uint64_t page = test::slotBytes(*engine, model);
            auto unpaged = Stack::create(*engine, model);
            auto paged = Stack::create(*engine, model, budgets(page, 6, Placement::tiered, HostCompute::always));
            REQUIRE(unpaged);
            REQUIRE(paged);
            auto expected = unpaged->forward(x, {.introspection = false});
            auto result = paged->forward(x, {.introspection = false});
            REQUIRE(expected);
            REQUIRE(result);
            CHECK(same(*result, *expected));
            CHECK((result->paging->counters.host_computed > 0) == !test::isHost(*engine));
            if (dispatch != Dispatch::dropless) continue;
            const Routes* forced[] = {&expected->layers[1].routes, nullptr};
            auto expected_forced = unpaged->forward(x, {}, forced);
            auto result_forced = paged->forward(x, {.max_batch = 4}, forced);
            REQUIRE(expected_forced);
            REQUIRE(result_forced);
            CHECK(same(*result_forced, *expected_forced));
        }
    }
}

// ---- errors ---------------------------------------------------------------------------------------------------------

namespace {

formats::ModelSource twoLayers(uint32_t hidden_dim) {
    Description d{.model_dim = kDim, .hidden_dim = hidden_dim, .experts = kExperts, .top_k = 2};
    formats::ModelSource model;
    model.stack = true;
    for (uint32_t i = 0; i < 2; ++i) model.layers.push_back(test::makeRandomLayer(d, WeightFormat::f32, 40 + i).source);
    return model;
}

// The sentences of the unpaged stack for tokens of this size, which the paged ones must have, too.
std::string overflows(Engine& engine, const formats::ModelSource& model, float scale) {
    auto unpaged = Stack::create(engine, model);
    REQUIRE(unpaged);
    uint64_t page = test::slotBytes(engine, model);
    auto x = test::randomTokens(13, kDim, 8), calm = test::randomTokens(13, kDim, 9);
    for (float& value : x) value *= scale;
    auto expected = unpaged->forward(x), usual = unpaged->forward(calm);
    REQUIRE(usual);
    for (Placement placement : {Placement::flat, Placement::tiered}) {
        auto paged = Stack::create(engine, model, budgets(page, 6, placement, HostCompute::always));
        REQUIRE(paged);
        auto result = paged->forward(x);
        CAPTURE(scale, placement == Placement::flat);
        REQUIRE(bool(result) == bool(expected));
        if (!result) CHECK(result.error().detail == expected.error().detail);
        auto after = paged->forward(calm);  // and nothing of it is left
        REQUIRE(after);
        CHECK(same(*after, *usual));
    }
    return expected ? std::string() : expected.error().detail;
}

}  // namespace

TEST_CASE("an overflow in an expert that the host computes is told in the device's words", "[paging][device]") {
    auto hidden = twoLayers(32), output = twoLayers(1);
    for (Engine* engine : test::engines()) {
        INFO(engine->device().info().name);
        std::string all;
        for (float scale : {0x1p30f, 0x1p31f, 0x1p34f}) all += overflows(*engine, hidden, scale) + "\n";
        for (float scale : {0x1p30f, 2.5e9f, 5e9f}) all += overflows(*engine, output, scale) + "\n";
        INFO(all);
        CHECK(all.find("the experts' hidden values") != std::string::npos);
        CHECK(all.find("the experts' outputs") != std::string::npos);
        CHECK(all.find("slot") == std::string::npos);  // but tokens and experts
    }
}

// ---- the cost model -------------------------------------------------------------------------------------------------

namespace {

CostModel modelOf(double device_read, double host_read, double host_speed) {
    return {device_read, host_read, host_speed, host_speed};
}

// When the last of both is done.
double seconds(const CostModel& model, const std::vector<CostModel::Work>& near,
               const std::vector<CostModel::Work>& far, const std::vector<bool>& left) {
    double device = 0, host = 0;
    for (const auto& work : near) device += model.deviceSeconds(work, model.device_read);
    for (size_t i = 0; i < far.size(); ++i)
        (left[i] ? host : device) += left[i] ? model.hostSeconds(far[i]) : model.deviceSeconds(far[i], model.host_read);
    return std::max(device, host > 0 ? host + CostModel::kTurn : 0);
}

size_t countOf(const std::vector<bool>& left) { return size_t(std::count(left.begin(), left.end(), true)); }

}  // namespace

TEST_CASE("the cost model leaves experts to the host so that both are done at about the same time", "[paging]") {
    std::vector<CostModel::Work> none, far(8, {uint64_t{32} << 20, 1});
    CHECK(countOf(modelOf(0, 0, 1e10).leave(none, far)) == 0);        // nothing was measured
    CHECK(countOf(modelOf(3e12, 5e10, 5e10).leave(none, far)) == 4);  // as fast as the bus: half
    CHECK(countOf(modelOf(3e12, 5e10, 1e9).leave(none, far)) == 0);   // a slow processor
    CHECK(countOf(modelOf(3e12, 1e9, 1e11).leave(none, far)) == 8);   // a slow bus
    CHECK(countOf(modelOf(3e12, 5e10, 5e10).leave(far, none)) == 0);
    CHECK(modelOf(3e12, 5e10, 5e10).leave(none, none).empty());
    std::vector<CostModel::Work> small(8, {4096, 1});
    CHECK(countOf(modelOf(3e12, 5e10, 5e10).leave(none, small)) == 0);  // not worth waking anyone
}

TEST_CASE("the cost model prefers experts of few rows", "[paging]") {
    std::vector<CostModel::Work> far;
    for (uint32_t rows : {30, 1, 31, 2}) far.push_back({uint64_t{32} << 20, rows});
    CHECK(modelOf(3e12, 5e10, 5e10).leave({}, far) == std::vector<bool>{false, true, false, true});
}

TEST_CASE("the cost model is never slower than the device alone, and near the best split", "[paging]") {
    std::mt19937 random(5);
    for (int round = 0; round < 200; ++round) {
        CAPTURE(round);
        auto draw = [&](uint32_t most) { return 1 + random() % most; };
        std::vector<CostModel::Work> near(random() % 4), far(random() % 9);
        for (auto* works : {&near, &far})
            for (auto& work : *works) work = {uint64_t{draw(64)} << 20, uint32_t(draw(40))};
        CostModel model = modelOf(1e11 * draw(30), 1e9 * draw(60), 1e9 * draw(60));
        double ours = seconds(model, near, far, model.leave(near, far)), best = 1e9, largest = 0;
        for (uint32_t bits = 0; bits < 1u << far.size(); ++bits) {
            std::vector<bool> left(far.size());
            for (size_t i = 0; i < far.size(); ++i) left[i] = (bits >> i & 1) != 0;
            best = std::min(best, seconds(model, near, far, left));
        }
        for (const auto& work : far)
            largest =
                std::max({largest, std::min(model.hostSeconds(work), model.deviceSeconds(work, model.host_read))});
        CHECK(ours <= seconds(model, near, far, std::vector<bool>(far.size())) * 1.000001);
        CHECK(ours <= best + largest + CostModel::kTurn);
    }
}

TEST_CASE("the cost model learns and slowly forgets", "[paging]") {
    CostModel model = modelOf(3e12, 5e10, 4e10);
    for (int i = 0; i < 50; ++i) model.learn(1e9, 1);
    CHECK(model.host_speed == Approx(1e9).epsilon(0.01));
    model.learn(1e9, 0);  // too fast to be measured: nothing learned
    CHECK(model.host_speed == Approx(1e9).epsilon(0.01));
    for (int i = 0; i < 10000; ++i) model.forget();
    CHECK(model.host_speed == Approx(4e10).epsilon(0.01));
}

TEST_CASE("the cost model finds out how fast the device is from who was done first", "[paging]") {
    uint32_t seed = Catch::getSeed();
    CAPTURE(seed);
    for (double truth : {0.2, 0.5, 1.0, 3.0, 100.0}) {  // of what was measured at first
        CAPTURE(truth);
        std::mt19937 random(seed);
        CostModel model = modelOf(1e12, 5e10, 4e10), real = modelOf(1e12 * truth, 5e10 * truth, 4e10);
        for (int turn = 0; turn < 2000; ++turn) {
            std::vector<CostModel::Work> near(1 + random() % 4, {uint64_t{1} << 24, 1 + uint32_t(random() % 64)});
            std::vector<CostModel::Work> far(random() % 3, {uint64_t{1} << 24, 1});
            double host = model.deviceSeconds(near, far) * std::exp2(double(random() % 401) / 100 - 2);
            model.learnDevice(model.deviceSeconds(near, far), host, real.deviceSeconds(near, far) <= host);
        }
        double bounded = std::min(truth, CostModel::kMostError);
        CHECK(model.device_error == Approx(bounded).epsilon(0.2));
        CHECK(model.device_read == Approx(1e12 * model.device_error));
        CHECK(model.host_read == Approx(5e10 * model.device_error));
    }
    CostModel model = modelOf(1e12, 5e10, 4e10);
    model.learnDevice(0, 1, true);  // the device had nothing to do
    model.learnDevice(1, 2, true);  // as thought
    model.learnDevice(2, 1, false);
    CHECK(model.device_error == 1);
}
