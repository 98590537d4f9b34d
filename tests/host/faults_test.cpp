// Faults: whichever call fails, in whatever way, the engine ends in a clean error or in the same bits, and nothing is
// left behind.
#include "host/faults.h"

#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <chrono>
#include <random>
#include <thread>

#include "engine/formats/model_source.h"
#include "host/slots.h"
#include "tests/devices.h"
#include "tests/moe/random_layer.h"
#include "tests/must.h"
#include "tests/paging/pages.h"
#include "vkmoe/layer.h"
#include "vkmoe/layer_trainer.h"
#include "vkmoe/stack.h"

using namespace vkmoe;
using test::must;

namespace {

constexpr Fault kFaults[] = {Fault::out_of_host_memory, Fault::out_of_device_memory, Fault::device_lost};

struct Outcome {
    std::vector<float> output, paged, moved;
    double loss = 0, paged_loss = 0;
};

// SwiftShader takes ten seconds to compile the kernels of training.
bool trains(Engine& engine) { return engine.device().info().name.find("SwiftShader") == std::string::npos; }

// Loads a layer, runs it forward, and trains it for one step, each in pages, too.
Result<Outcome> serveAndTrain(Engine& engine) {
    static const test::RandomLayer random = test::makeRandomLayer(
        {.model_dim = 8, .hidden_dim = 8, .experts = 3, .top_k = 2, .score = Score::softmax, .renormalize = true},
        WeightFormat::f32, 3);
    static const std::vector<float> x = test::randomTokens(5, 8, 4), y = test::randomTokens(5, 8, 6);
    Outcome outcome;
    VKMOE_TRY(layer, Layer::create(engine, random.source));
    VKMOE_TRY(forward, layer.forward(x));
    outcome.output = std::move(forward.output);
    formats::ModelSource model;
    model.layers.push_back(random.source);
    VKMOE_TRY(stack, Stack::create(engine, model, {.device_budget = 2048, .host_budget = 0}));  // one page of three
    VKMOE_TRY(paged, stack.forward(x));
    outcome.paged = std::move(paged.output);
    const PagingOptions tiers{.device_budget = 2048,
                              .host_budget = 8192,
                              .placement = Placement::tiered,
                              .speeds = MemorySpeeds{.transfer_queue = true}};
    VKMOE_TRY(tiered, Stack::create(engine, model, tiers));
    VKMOE_TRY(moved, tiered.forward(x, {.max_batch = 1}));
    outcome.moved = std::move(moved.output);
    if (!trains(engine)) return outcome;
    LayerTrainerOptions options;
    for (double* loss : {&outcome.loss, &outcome.paged_loss}) {
        if (loss == &outcome.paged_loss) options.paging = TrainingPaging{8192, 0};  // one expert of three
        VKMOE_TRY(trainer, LayerTrainer::create(engine, random.source, options));
        VKMOE_TRY(epoch, trainer.epoch(x, y));
        *loss = epoch.loss;
    }
    return outcome;
}

void checkOutcome(Engine& engine, const Outcome& outcome) {
    static const Outcome expected = must(serveAndTrain(*must(Engine::open({.device = "cpu"}))));
    CHECK(outcome.output == expected.output);
    CHECK(outcome.paged == expected.output);
    CHECK(outcome.moved == expected.output);
    CHECK(outcome.loss == (trains(engine) ? expected.loss : 0));
    CHECK(outcome.paged_loss == outcome.loss);
}

EngineOptions optionsFor(uint32_t gpu, std::shared_ptr<Faults> faults) {
    return {.device = "gpu:" + std::to_string(gpu),
            .device_options = {.emulate_transfer_queue = true, .faults = std::move(faults)},
            .probe = false};
}

void checkError(const Error& error, Fault fault) {
    INFO(error.detail);
    CHECK(error.detail.size() > 20);
    bool cpu = error.detail.find("the system refused") != std::string::npos;  // it took over, and fails, too
    bool memory = error.code == ErrorCode::out_of_memory && (fault != Fault::device_lost || cpu);
    bool lost = error.code == ErrorCode::device_lost && fault == Fault::device_lost;
    bool instance = error.code == ErrorCode::no_device;
    CHECK((memory || lost || instance));
    bool told = error.vk_result == int(fault) || error.vk_result == 0;
    CHECK((told || memory));  // an allocator may say the one when it was told the other
}

// All memory is back, now or, if a call failed that would have told so, when the next work is done.
void checkNothingLeft(Device& device) {
    if (!device.lost()) {
        Commands nothing;
        REQUIRE(device.wait(must(device.submit(nothing))));
    }
    CHECK(device.ledger().used() == 0);
    CHECK(device.ledger().pinned() == 0);
}

// Runs everything on an open engine while the plan's call fails.
void runFaulty(Engine& engine, Faults& faults, const FaultPlan& plan) {
    CAPTURE(plan.nth, int(plan.result), plan.lasting);
    faults.arm(plan);
    auto outcome = serveAndTrain(engine);
    if (outcome)
        checkOutcome(engine, *outcome);
    else
        checkError(outcome.error(), plan.result);
    faults.disarm();
    checkNothingLeft(engine.device());
}

// Opens an engine, runs everything and closes it while the plan's call fails, of all that are made.
void openRunClose(uint32_t gpu, const FaultPlan& plan) {
    CAPTURE(plan.nth, int(plan.result), plan.lasting);
    auto faults = std::make_shared<Faults>();
    faults->arm(plan);
    auto engine = Engine::open(optionsFor(gpu, faults));
    if (!engine) return checkError(engine.error(), plan.result);
    auto outcome = serveAndTrain(**engine);
    if (outcome)
        checkOutcome(**engine, *outcome);
    else
        checkError(outcome.error(), plan.result);
    engine->reset();  // while calls go on failing
}

// Calls that opening, and closing again, makes.
uint64_t callsOfLife(uint32_t gpu) {
    auto faults = std::make_shared<Faults>();
    must(Engine::open(optionsFor(gpu, faults)));
    return faults->seen();
}

double secondsSince(std::chrono::steady_clock::time_point start) {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Numbers of calls, from 1 on: all of them, or as many as there is time for, evenly spread from a random offset.
std::vector<uint64_t> sample(uint64_t calls, double seconds_each, double seconds, std::mt19937_64& random) {
    uint64_t most = std::max<uint64_t>(uint64_t(seconds / seconds_each), 2);
    uint64_t step = std::max<uint64_t>((calls + most - 1) / most, 1);
    std::vector<uint64_t> numbers;
    for (uint64_t n = 1 + random() % step; n <= calls; n += step) numbers.push_back(n);
    return numbers;
}

}  // namespace

TEST_CASE("plans say which call fails", "[faults]") {
    Faults faults;
    auto results = [&](std::initializer_list<FaultyCall> calls) {
        std::vector<int> all;
        for (FaultyCall call : calls) all.push_back(int(faults.next(call)));
        return all;
    };
    using enum FaultyCall;
    CHECK(results({any, submit, wait}) == std::vector{0, 0, 0});
    CHECK(faults.seen() == 3);
    CHECK(faults.seen(submit) == 1);
    faults.arm({.nth = 2});
    CHECK(results({submit, wait, any, drain}) == std::vector{0, -4, 0, 0});
    faults.arm({.call = submit, .nth = 2, .result = Fault::out_of_host_memory, .lasting = true});
    CHECK(results({submit, any, submit, wait, submit}) == std::vector{0, 0, -1, 0, -1});
    CHECK(faults.failed() == 2);
    faults.arm({.nth = 1, .result = Fault::out_of_device_memory, .lasting = true});
    CHECK(results({wait, drain, drain, submit}) == std::vector{-2, -2, 0, -2});
    faults.arm({.nth = 1, .lasting = true});
    CHECK(results({drain, drain}) == std::vector{-4, -4});
}

TEST_CASE("on the CPU, whichever allocation fails", "[faults]") {
    auto faults = std::make_shared<Faults>();
    auto engine = must(Engine::open({.device = "cpu", .device_options = {.faults = faults}}));
    checkOutcome(*engine, must(serveAndTrain(*engine)));
    uint64_t allocations = faults->seen(FaultyCall::allocation);
    CHECK(allocations > 20);
    for (uint64_t n = 1; n <= allocations; ++n)
        for (bool lasting : {false, true})
            runFaulty(*engine, *faults, {FaultyCall::allocation, n, Fault::out_of_host_memory, lasting});
    checkOutcome(*engine, must(serveAndTrain(*engine)));
}

TEST_CASE("whichever call of opening or closing a device fails", "[faults][device]") {
    for (uint32_t gpu = 0; gpu < test::vulkanDevices(); ++gpu) {
        uint64_t calls = callsOfLife(gpu);
        for (uint64_t n = 1; n <= calls; ++n)
            for (Fault fault : kFaults)
                for (bool lasting : {false, true}) {
                    CAPTURE(gpu, n, int(fault), lasting);
                    auto faults = std::make_shared<Faults>();
                    faults->arm({.nth = n, .result = fault, .lasting = lasting});
                    auto engine = Engine::open(optionsFor(gpu, faults));
                    if (!engine) checkError(engine.error(), fault);
                }
    }
}

TEST_CASE("whichever call for memory or work fails, the engine serves the next", "[faults][device]") {
    uint64_t seed = std::random_device{}();
    CAPTURE(seed);
    std::mt19937_64 random(seed);
    for (uint32_t gpu = 0; gpu < test::vulkanDevices(); ++gpu) {
        auto faults = std::make_shared<Faults>();
        auto engine = must(Engine::open(optionsFor(gpu, faults)));
        checkOutcome(*engine, must(serveAndTrain(*engine)));  // kernels are built from here on
        faults->disarm();
        auto start = std::chrono::steady_clock::now();
        checkOutcome(*engine, must(serveAndTrain(*engine)));
        double seconds = secondsSince(start);
        uint64_t calls = faults->seen();
        for (bool lasting : {false, true})
            for (uint64_t n : sample(calls, seconds, 0.5, random))
                runFaulty(*engine, *faults, {FaultyCall::any, n, kFaults[random() % 2], lasting});
        checkOutcome(*engine, must(serveAndTrain(*engine)));
    }
}

TEST_CASE("whichever call fails on a device that builds its kernels, or loses it", "[faults][device]") {
    uint64_t seed = std::random_device{}();
    CAPTURE(seed);
    std::mt19937_64 random(seed);
    for (uint32_t gpu = 0; gpu < test::vulkanDevices(); ++gpu) {
        auto faults = std::make_shared<Faults>();
        auto start = std::chrono::steady_clock::now();
        must(serveAndTrain(*must(Engine::open(optionsFor(gpu, faults)))));
        double seconds = secondsSince(start);
        for (uint64_t n : sample(faults->seen(), seconds, 1, random)) {
            bool lost = random() % 3 != 0;  // the other two are tried more cheaply above
            openRunClose(gpu,
                         {FaultyCall::any, n, lost ? Fault::device_lost : kFaults[random() % 2], random() % 2 == 0});
        }
    }
}

// Takes half an hour: for changes of what is done when a call fails.
TEST_CASE("every call fails in every way", "[.every-fault]") {
    uint64_t seed = std::random_device{}();
    CAPTURE(seed);
    for (uint32_t gpu = 0; gpu < test::vulkanDevices(); ++gpu) {
        auto faults = std::make_shared<Faults>();
        must(serveAndTrain(*must(Engine::open(optionsFor(gpu, faults)))));
        std::vector<FaultPlan> plans;
        for (uint64_t n = 1; n <= faults->seen(); ++n)
            for (Fault fault : kFaults)
                for (bool lasting : {false, true}) plans.push_back({FaultyCall::any, n, fault, lasting});
        std::shuffle(plans.begin(), plans.end(), std::mt19937_64(seed));
        for (const FaultPlan& plan : plans) openRunClose(gpu, plan);
    }
}

TEST_CASE("a device that is lost says so at once, and lets go of its memory", "[faults][device]") {
    for (uint32_t gpu = 0; gpu < test::vulkanDevices(); ++gpu) {
        auto faults = std::make_shared<Faults>();
        auto device = must(openVulkanDevice(gpu, {.faults = faults}));
        Buffer first = must(device->allocate(1 << 20, Memory::device, "first"));
        auto upload = must(device->allocate(256, Memory::upload, "upload"));
        Commands commands;
        commands.fill(first, 0, 1 << 20, 1);
        uint64_t value = must(device->submit(commands));
        first.reset();
        faults->arm({.call = FaultyCall::wait, .nth = 1});
        auto waited = device->wait(value);
        REQUIRE(!waited);
        CHECK(waited.error().code == ErrorCode::device_lost);
        CHECK(device->lost());
        CHECK(device->ledger().used() == 256);
        uint64_t calls = faults->seen();
        CHECK(test::saysLost(device->allocate(1, Memory::device, "a")));
        CHECK(test::saysLost(device->submit({})));
        CHECK(test::saysLost(device->wait(value)));
        CHECK(test::saysLost(device->passed()));
        CHECK(test::saysLost(device->transferred()));
        CHECK(test::saysLost(device->build(kernels().copy_words, {})));
        CHECK(faults->seen() == calls);
        upload.mapped()[0] = std::byte{1};
        upload.reset();
        CHECK(device->ledger().used() == 0);
    }
}

TEST_CASE("a call that cannot be submitted leaves the next one its bits", "[faults][paging][device]") {
    auto random = test::makeRandomLayer(
        {.model_dim = 8, .hidden_dim = 8, .experts = 6, .top_k = 2, .score = Score::softmax, .renormalize = true},
        WeightFormat::f32, 3);
    auto fixed = random;
    fixed.source.description.dispatch = Dispatch::fixed_budget;
    fixed.source.description.score = Score::softmax_selected;
    const std::vector<float> x = test::randomTokens(9, 8, 4);
    for (uint32_t gpu = 0; gpu < test::vulkanDevices(); ++gpu)
        for (const auto* layer : {&random, &fixed}) {
            auto faults = std::make_shared<Faults>();
            auto engine = must(Engine::open(optionsFor(gpu, faults)));
            formats::ModelSource model;
            model.layers = {layer->source, layer->source};
            auto unpaged = must(Stack::create(*engine, model));
            const auto expected = must(unpaged.forward(x, {.max_batch = 1})).output;
            const auto first = must(unpaged.layers()[0].forward(x)).output;
            for (auto [placement, transfers] : test::kPlacements)
                for (uint64_t pages : {3u, 12u}) {
                    const uint64_t page = test::slotBytes(*engine, model);
                    auto stack = must(Stack::create(*engine, model,
                                                    {.device_budget = pages / 3 * page,
                                                     .host_budget = pages * page,
                                                     .placement = placement,
                                                     .speeds = MemorySpeeds{.transfer_queue = transfers}}));
                    for (uint64_t n = 1; n < 30; ++n) {
                        CAPTURE(int(placement), transfers, pages, n, layer == &fixed);
                        faults->arm({.call = FaultyCall::submit, .nth = n, .result = Fault::out_of_host_memory});
                        auto failed = stack.forward(x, {.max_batch = 1});
                        faults->disarm();
                        if (failed) CHECK(failed->output == expected);
                        if (n % 2 == 0) CHECK(must(stack.layers()[0].forward(x)).output == first);
                        CHECK(must(stack.forward(x, {.max_batch = 1})).output == expected);
                    }
                }
        }
}

TEST_CASE("slots of a device that is lost are no fewer slots but an error", "[faults][device]") {
    for (uint32_t gpu = 0; gpu < test::vulkanDevices(); ++gpu) {
        auto faults = std::make_shared<Faults>();
        auto device = must(openVulkanDevice(gpu, {.faults = faults}));
        faults->arm({.nth = 1, .lasting = true});
        CHECK(test::saysLost(Slots::create(*device, Memory::device, 256, 4, "slots")));
    }
}

TEST_CASE("work of one device is refused by another, and waits for work that is not there", "[faults][device]") {
    for (uint32_t gpu = 0; gpu < test::vulkanDevices(); ++gpu) {
        auto one = must(openVulkanDevice(gpu)), other = must(openVulkanDevice(gpu));
        Buffer buffer = must(one->allocate(256, Memory::device, "buffer"));
        Commands commands;
        commands.fill(buffer, 0, 256, 1);
        CHECK(test::saysLost(other->submit(commands)));
        CHECK(other->wait(1).error().code == ErrorCode::internal);
        REQUIRE(one->wait(must(one->submit(commands))));
    }
}

TEST_CASE("faults of one device are no other's", "[faults][device]") {
    for (uint32_t gpu = 0; gpu < test::vulkanDevices(); ++gpu) {
        auto quiet_faults = std::make_shared<Faults>(), faults = std::make_shared<Faults>();
        auto quiet_device = must(openVulkanDevice(gpu, {.faults = quiet_faults}));
        auto device = must(openVulkanDevice(gpu, {.faults = faults}));
        faults->arm({FaultyCall::submit, 3, Fault::out_of_host_memory, true});
        auto run = [](Device& on, size_t& errors) {
            for (int i = 0; i < 200; ++i) {
                auto value = on.submit({});
                errors += !value || !on.wait(*value);
            }
        };
        size_t none = 0, some = 0;
        std::thread quiet([&] { run(*quiet_device, none); });
        run(*device, some);
        quiet.join();
        CHECK(none == 0);
        CHECK(some == 198);
    }
}
