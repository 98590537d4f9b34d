// Stacks with their experts in pages: the bits of the unpaged run, whatever the budgets, the policy and the tiers.
#include <catch2/catch_test_macros.hpp>
#include <cstring>
#include <random>

#include "engine/formats/model_source.h"
#include "host/faults.h"
#include "tests/engines.h"
#include "tests/moe/random_layer.h"
#include "tests/paging/pages.h"
#include "vkmoe/stack.h"

using namespace vkmoe;

namespace {

// Four layers with pages of two sizes, one with a shared expert. (Few kernels: SwiftShader takes seconds to build one.)
formats::ModelSource fourLayers() {
    formats::ModelSource model;
    model.stack = true;
    Description d{.model_dim = 48, .hidden_dim = 40, .experts = 10, .top_k = 2, .renormalize = true};
    for (uint32_t i = 0; i < 4; ++i) {
        d.hidden_dim = 40 - 8 * (i % 2);
        d.top_k = 1 + i;
        d.shared = i == 2 ? Shared::plain : Shared::none;
        d.shared_dim = i == 2 ? 24 : 0;
        model.layers.push_back(test::makeRandomLayer(d, WeightFormat::f16, 70 + i).source);
    }
    return model;
}

struct Case {
    PagingOptions options;
    uint32_t max_batch = 0;
};

bool sameFacts(const StackResult& a, const StackResult& b) {
    bool same =
        a.output.size() == b.output.size() && std::memcmp(a.output.data(), b.output.data(), a.output.size() * 4) == 0;
    for (size_t i = 0; i < a.layers.size(); ++i) {
        const auto &x = a.layers[i], &y = b.layers[i];
        same = same && x.routes.experts == y.routes.experts && x.routes.gates == y.routes.gates;
        for (size_t e = 0; e < x.introspection.experts.size(); ++e)
            same = same && x.introspection.experts[e].output_rms == y.introspection.experts[e].output_rms &&
                   x.introspection.experts[e].tokens == y.introspection.experts[e].tokens;
    }
    return same;
}

}  // namespace

TEST_CASE("pinned experts stay in memory, and only those there are can be pinned", "[paging]") {
    auto model = fourLayers();
    Engine& engine = *test::engines().front();
    const uint64_t page = test::slotBytes(engine, model);
    PagingOptions options{.device_budget = 0, .host_budget = 8 * page, .policy = Policy::fixed};
    options.pinned = {{0, 3}, {1, 9}, {3, 0}, {3, 7}};
    auto stack = Stack::create(engine, model, options);
    REQUIRE(stack);
    std::vector<bool> used(40);
    for (uint32_t call = 0; call < 30; ++call) {
        auto result = stack->forward(test::randomTokens(1, 48, 100 + call), {.max_batch = 1});
        REQUIRE(result);
        for (auto [layer, expert] : options.pinned) {
            const auto& chosen = result->layers[layer].routes.experts;
            bool now = std::find(chosen.begin(), chosen.end(), expert) != chosen.end();
            used[layer * 10 + expert] = used[layer * 10 + expert] || now;
            if (used[layer * 10 + expert]) CHECK(result->paging->tiers[layer * 10 + expert] >= 0);
        }
    }
    CHECK(std::count(used.begin(), used.end(), true) > 1);

    const auto error = [&](Policy policy, ExpertId id) {
        PagingOptions other = options;
        other.policy = policy;
        other.pinned = {id};
        auto refused = Stack::create(engine, model, other);
        return refused ? "no error" : refused.error().detail;
    };
    CHECK(error(Policy::fixed, {3, 10}) == "expert 10 of layer 3 is pinned, but there are 10 experts in it");
    CHECK(error(Policy::fixed, {4, 0}) == "expert 0 of layer 4 is pinned, but there are 4 layers");
    CHECK(error(Policy::lfu, {0, 0}) == "experts are pinned, but the policy is lfu: static pins experts");
}

TEST_CASE("where routers guess badly, history tells what is read ahead", "[paging]") {
    auto model = fourLayers();
    Engine& engine = *test::engines().front();
    constexpr uint32_t kTokens = 400;
    const auto x = test::randomTokens(kTokens, 48, 8);
    std::vector<Routes> routes;  // every token goes where the first one went: more pages than there are slots
    std::vector<const Routes*> forced;
    for (uint32_t layer = 0; layer < 4; ++layer) {
        const uint32_t top_k = layer + 1;
        Routes& one = routes.emplace_back(Routes{.top_k = top_k, .experts = {}, .gates = {}});
        for (uint32_t i = 0; i < kTokens * top_k; ++i) {
            one.experts.push_back(i % top_k + 2 * layer);
            one.gates.push_back(0.25f);
        }
    }
    for (const Routes& one : routes) forced.push_back(&one);
    auto whole = Stack::create(engine, model);
    REQUIRE(whole);
    auto expected = whole->forward(x, {}, forced);
    if (!expected) FAIL(expected.error().detail);
    for (bool prefetch : {true, false}) {
        auto paged = Stack::create(
            engine, model,
            PagingOptions{.device_budget = 0, .host_budget = 7 * test::slotBytes(engine, model), .prefetch = prefetch});
        REQUIRE(paged);
        auto result = paged->forward(x, {.max_batch = 1}, forced);
        REQUIRE(result);
        CHECK(sameFacts(*result, *expected));
        const PagerCounters& c = result->paging->counters;
        CAPTURE(prefetch, c.prefetched, c.prefetch_used);
        if (!prefetch) CHECK(c.prefetched == 0);
        if (prefetch) CHECK(c.prefetch_used > kTokens / 2);
        if (prefetch) CHECK(double(c.prefetch_used) > 0.5 * double(c.prefetched));
    }
}

TEST_CASE("a paged stack gives the unpaged bits, for any budget, policy, tier and batch", "[paging][device]") {
    auto model = fourLayers();
    auto x = test::randomTokens(5, 48, 3);
    for (Engine* engine : test::engines()) {
        INFO(engine->device().info().name);
        auto unpaged = Stack::create(*engine, model);
        REQUIRE(unpaged);
        auto expected = unpaged->forward(x);
        REQUIRE(expected);
        uint64_t page = test::slotBytes(*engine, model);
        for (uint64_t slots : {1, 4, 20, 40})
            for (Policy policy : {Policy::lru, Policy::lfu, Policy::expected, Policy::fixed, Policy::automatic})
                for (uint32_t batch : {0u, 1u}) {
                    Placement placement =
                        (slots / 4 + uint64_t(policy) + batch) % 2 == 0 ? Placement::flat : Placement::tiered;
                    bool prefetch = (slots + uint64_t(policy)) % 2 == 0;
                    bool transfers = placement == Placement::tiered && uint64_t(policy) % 2 == batch;
                    CAPTURE(slots, name(policy), placement == Placement::flat, prefetch, transfers);
                    auto paged = Stack::create(*engine, model,
                                               {.device_budget = slots / 3 * page,
                                                .host_budget = (slots - slots / 3) * page,
                                                .policy = policy,
                                                .placement = placement,
                                                .speeds = MemorySpeeds{.transfer_queue = transfers},
                                                .prefetch = prefetch});
                    REQUIRE(paged);
                    auto result = paged->forward(x, {.max_batch = batch});
                    REQUIRE(result);
                    CHECK(sameFacts(*result, *expected));
                    REQUIRE(result->paging);
                    const PagerCounters& c = result->paging->counters;
                    CHECK(result->paging->all_resident == (slots == 40));
                    CHECK(result->paging->transfer_queue == transfers);
                    CHECK((slots == 40 ? c.tier3 == 0 : c.tier1 + c.tier2 + c.tier3 > 0));
                }
    }
}

TEST_CASE("the host waits for results alone while everything is in memory, else once a layer", "[paging][device]") {
    auto model = fourLayers();
    auto x = test::randomTokens(40, 48, 3);
    for (Engine* engine : test::engines()) {
        INFO(engine->device().info().name);
        uint64_t page = test::slotBytes(*engine, model);
        for (auto [placement, transfers] : test::kPlacements) {
            auto all = Stack::create(*engine, model,
                                     {.device_budget = 10 * page,
                                      .host_budget = 40 * page,
                                      .placement = placement,
                                      .speeds = MemorySpeeds{.transfer_queue = transfers}});
            REQUIRE(all);
            auto whole = all->forward(x);
            REQUIRE(whole);
            CHECK(whole->host_waits == 1);
            auto decode = all->forward(x, {.max_batch = 1});
            REQUIRE(decode);
            CHECK(decode->host_waits <= 6);  // 1, 2, 4, 8, 16 and 9 tokens in flight
            CHECK(decode->submits >= 40);
            for (HostCompute host : {HostCompute::never, HostCompute::always}) {
                auto some = Stack::create(*engine, model,
                                          {.device_budget = 8 * page,
                                           .host_budget = 16 * page,
                                           .placement = placement,
                                           .host_compute = host,
                                           .speeds = MemorySpeeds{.transfer_queue = transfers}});
                REQUIRE(some);
                auto turns = some->forward(x, {.max_batch = 1});
                REQUIRE(turns);
                CHECK(turns->host_waits <= 40 * 4 + 6);  // a layer's routes, and results as above
                CHECK(turns->paging->counters.tier3 > 0);
                CHECK(turns->output == whole->output);
            }
        }
    }
}

TEST_CASE("a trace tells every use, in order", "[paging]") {
    auto engine = Engine::open({.device = "cpu"});
    auto model = fourLayers();
    uint64_t page = test::slotBytes(**engine, model);
    auto x = test::randomTokens(3, 48, 3);
    for (uint64_t slots : {6, 40}) {
        auto paged = Stack::create(**engine, model, {.device_budget = slots * page, .host_budget = 0, .trace = true});
        REQUIRE(paged);
        auto result = paged->forward(x, {.max_batch = 1});
        REQUIRE(result);
        const auto& visits = result->paging->visits;
        REQUIRE(visits.size() == 12);
        for (size_t t = 0; t < 3; ++t)
            for (size_t l = 0; l < 4; ++l) {
                CHECK(visits[t * 4 + l].group == l);
                auto experts = result->layers[l].routes.experts;
                std::vector<PageId> expected;
                for (size_t k = 0; k < l + 1; ++k) expected.push_back(PageId(10 * l + experts[t * (l + 1) + k]));
                std::sort(expected.begin(), expected.end());
                CHECK(visits[t * 4 + l].pages == expected);
            }
    }
}

TEST_CASE("capacity and fixed-budget layers page, too", "[paging]") {
    auto engine = Engine::open({.device = "cpu"});
    auto x = test::randomTokens(33, 32, 3);
    for (Dispatch dispatch : {Dispatch::capacity, Dispatch::fixed_budget}) {
        Description d{.model_dim = 32, .hidden_dim = 24, .experts = 8, .top_k = 2};
        d.score = Score::softmax_selected;
        d.dispatch = dispatch;
        formats::ModelSource model;
        model.stack = true;
        for (uint32_t i = 0; i < 2; ++i)
            model.layers.push_back(test::makeRandomLayer(d, WeightFormat::f32, 5 + i).source);
        auto unpaged = Stack::create(**engine, model);
        if (!unpaged) FAIL(unpaged.error().detail);
        auto expected = unpaged->forward(x, {.max_batch = 5});
        REQUIRE(expected);
        auto paged =
            Stack::create(**engine, model, {.device_budget = 3 * test::slotBytes(**engine, model), .host_budget = 0});
        REQUIRE(paged);
        auto result = paged->forward(x, {.max_batch = 5});
        REQUIRE(result);
        CHECK(sameFacts(*result, *expected));
    }
}

TEST_CASE("a device that is lost on the way is replaced, and the pages read again: same bits", "[paging][device]") {
    formats::ModelSource model;
    model.stack = true;
    Description d{.model_dim = 48, .hidden_dim = 40, .experts = 10, .top_k = 2};
    for (uint32_t i = 0; i < 2; ++i) model.layers.push_back(test::makeRandomLayer(d, WeightFormat::f16, i).source);
    auto x = test::randomTokens(5, 48, 3);
    auto cpu = Engine::open({.device = "cpu"});
    auto unpaged = Stack::create(**cpu, model);
    auto expected = unpaged->forward(x);
    REQUIRE(expected);
    auto first = unpaged->layers()[0].forward(x);
    REQUIRE(first);
    auto candidates = listVulkanDevices();
    for (uint32_t index = 0; candidates && index < candidates->size(); ++index) {
        INFO((*candidates)[index].info.name);
        for (uint64_t lost_at : {3}) {
            auto faults = std::make_shared<Faults>();
            EngineOptions options{.device = "gpu:" + std::to_string(index), .probe = false};
            options.device_options.faults = faults;
            auto engine = Engine::open(options);
            REQUIRE(engine);
            auto paged = Stack::create(**engine, model, {.device_budget = 20000, .host_budget = 60000});
            REQUIRE(paged);
            faults->arm({.call = FaultyCall::submit, .nth = lost_at, .result = Fault::device_lost});
            auto result = paged->forward(x, {.max_batch = 2});
            REQUIRE(result);
            CHECK(sameFacts(*result, *expected));
            CHECK((*engine)->generation() == 1);
            // A layer by itself has no pages until its stack has opened them again.
            faults->arm({.call = FaultyCall::submit, .nth = 1, .result = Fault::device_lost});
            for (bool recovered : {false, true}) {
                CAPTURE(recovered);
                auto alone = paged->layers()[0].forward(x);
                REQUIRE(!alone);
                CHECK(alone.error().code == ErrorCode::device_lost);
                REQUIRE((*engine)->recover());
            }
            REQUIRE(paged->forward(x));
            auto alone = paged->layers()[0].forward(x);
            REQUIRE(alone);
            CHECK(alone->output == first->output);
        }
    }
}
