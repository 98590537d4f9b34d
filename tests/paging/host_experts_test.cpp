// Experts computed on the CPU beside the device: the same bits and the same errors, whoever computes what.
#include <catch2/catch_approx.hpp>
#include <catch2/catch_test_macros.hpp>
#include <cstring>
#include <random>

#include "engine/formats/model_source.h"
#include "engine/moe/cost_model.h"
#include "tests/engines.h"
#include "tests/moe/random_layer.h"
#include "vkmoe/stack.h"

using namespace vkmoe;
using Catch::Approx;

namespace {

constexpr uint32_t kDim = 32, kExperts = 10;

// Every activation and every weight format, with and without biases.
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
        if (i == 3) d.gate_bias = d.up_bias = d.down_bias = true;
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

uint64_t slotBytes(Engine& engine, const formats::ModelSource& model) {
    auto stack = Stack::create(engine, model, PagingOptions{});
    REQUIRE(stack);
    return stack->pager()->slotBytes();
}

bool isCpu(Engine& engine) { return engine.device().info().type == DeviceType::cpu; }

}  // namespace

// ---- bits -----------------------------------------------------------------------------------------------------------

TEST_CASE("experts that the host computes have the device's bits", "[paging][device]") {
    auto model = everyKind();
    auto x = test::randomTokens(67, kDim, 3);
    for (Engine* engine : test::engines()) {
        INFO(engine->device().info().name);
        auto unpaged = Stack::create(*engine, model);
        REQUIRE(unpaged);
        uint64_t page = slotBytes(*engine, model);
        for (Precision precision : {Precision::exact, Precision::rounded})
            for (size_t tokens : {2, 67}) {  // a row an expert, and tiles
                auto some = std::span(x).first(tokens * kDim);
                auto expected = unpaged->forward(some, {.precision = precision});
                REQUIRE(expected);
                for (uint64_t slots : {1, 4, 20})
                    for (Placement placement : {Placement::flat, Placement::tiered})
                        for (HostCompute host : {HostCompute::always, HostCompute::never, HostCompute::automatic}) {
                            if (host != HostCompute::always && slots != 4) continue;
                            CAPTURE(int(precision), tokens, slots, placement == Placement::flat, int(host));
                            auto paged = Stack::create(*engine, model, budgets(page, slots, placement, host));
                            REQUIRE(paged);
                            auto result = paged->forward(some, {.precision = precision});
                            REQUIRE(result);
                            CHECK(same(*result, *expected));
                            auto again = paged->forward(some, {.precision = precision, .max_batch = 3});
                            REQUIRE(again);
                            CHECK(same(*again, *expected));
                            uint64_t there = result->paging->counters.host_computed;
                            if (host == HostCompute::never || isCpu(*engine)) CHECK(there == 0);
                            if (host == HostCompute::always && !isCpu(*engine)) CHECK(there > 0);
                        }
            }
    }
}

TEST_CASE("without introspection, with forced routes, and layer by layer: the host's experts have the same bits",
          "[paging][device]") {
    Description d{.model_dim = kDim, .hidden_dim = 32, .experts = kExperts, .top_k = 2};
    for (Dispatch dispatch : {Dispatch::dropless, Dispatch::capacity, Dispatch::fixed_budget}) {
        d.dispatch = dispatch;
        formats::ModelSource model;
        model.stack = true;
        for (uint32_t i = 0; i < 2; ++i)
            model.layers.push_back(test::makeRandomLayer(d, WeightFormat::f32, 40 + i).source);
        auto x = test::randomTokens(21, kDim, 8);
        for (Engine* engine : test::engines()) {
            INFO(engine->device().info().name);
            CAPTURE(int(dispatch));
            uint64_t page = slotBytes(*engine, model);
            auto unpaged = Stack::create(*engine, model);
            auto paged = Stack::create(*engine, model, budgets(page, 6, Placement::tiered, HostCompute::always));
            REQUIRE(unpaged);
            REQUIRE(paged);
            auto expected = unpaged->forward(x, {.introspection = false});
            auto result = paged->forward(x, {.introspection = false});
            REQUIRE(expected);
            REQUIRE(result);
            CHECK(same(*result, *expected));
            CHECK((result->paging->counters.host_computed > 0) == !isCpu(*engine));
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

TEST_CASE("an overflow in an expert that the host computes is told in the device's words", "[paging][device]") {
    Description d{.model_dim = kDim, .hidden_dim = 32, .experts = kExperts, .top_k = 2};
    formats::ModelSource model;
    model.stack = true;
    for (uint32_t i = 0; i < 2; ++i) model.layers.push_back(test::makeRandomLayer(d, WeightFormat::f32, 40 + i).source);
    for (Engine* engine : test::engines()) {
        INFO(engine->device().info().name);
        auto unpaged = Stack::create(*engine, model);
        REQUIRE(unpaged);
        uint64_t page = slotBytes(*engine, model);
        bool hidden = false, output = false;
        for (float scale = 0x1p30f; scale < 0x1p36f; scale *= 2) {
            auto x = test::randomTokens(13, kDim, 8);
            for (float& value : x) value *= scale;
            auto expected = unpaged->forward(x);
            for (Placement placement : {Placement::flat, Placement::tiered}) {
                auto paged = Stack::create(*engine, model, budgets(page, 6, placement, HostCompute::always));
                REQUIRE(paged);
                auto result = paged->forward(x);
                CAPTURE(scale, placement == Placement::flat);
                REQUIRE(bool(result) == bool(expected));
                if (!result) {
                    CHECK(result.error().detail == expected.error().detail);
                    CHECK(result.error().code == expected.error().code);
                }
                auto calm = test::randomTokens(13, kDim, 9);  // and nothing of it is left
                auto after = paged->forward(calm), usual = unpaged->forward(calm);
                REQUIRE(after);
                REQUIRE(usual);
                CHECK(same(*after, *usual));
            }
            if (expected) continue;
            hidden = hidden || expected.error().detail.find("the experts' hidden values") != std::string::npos;
            output = output || expected.error().detail.find("the experts' outputs") != std::string::npos;
        }
        CHECK(hidden);
        CHECK(output);
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
