// Devices: memory and its ledger, command lists, limits that are clamped, and probes that notice a wrong device.
#include <catch2/catch_test_macros.hpp>
#include <cstring>

#include "engine/cases/scene.h"
#include "tests/devices.h"
#include "tests/moe/random_layer.h"
#include "vkmoe/layer.h"

using namespace vkmoe;

namespace {

// Runs the commands and waits.
void finish(Device& device, const Commands& commands) {
    auto value = device.submit(commands);
    REQUIRE(value);
    REQUIRE(device.wait(*value));
    CHECK(*device.passed() >= *value);
}

Description smallLayer() {
    return {.model_dim = 64, .hidden_dim = 48, .experts = 8, .top_k = 2, .score = Score::softmax, .renormalize = true};
}

std::vector<float> forwardOn(Engine& engine, const test::RandomLayer& random, const std::vector<float>& x) {
    auto layer = Layer::create(engine, random.source);
    if (!layer) FAIL(layer.error().detail);
    auto result = layer->forward(x);
    if (!result) FAIL(result.error().detail);
    return result->output;
}

}  // namespace

TEST_CASE("copies and fills move bytes, and freed memory returns to the ledger", "[host][device]") {
    for (Device* device : test::devices()) {
        INFO(device->info().name);
        {
            auto upload = device->allocate(1000, Memory::upload, "upload");
            auto memory = device->allocate(1000, Memory::device, "memory");
            auto download = device->allocate(1000, Memory::download, "download");
            REQUIRE((upload && memory && download));
            CHECK(device->ledger().used() == 3 * 1024);
            for (size_t i = 0; i < 1000; ++i) upload->mapped()[i] = std::byte(i % 251);
            Commands commands;
            commands.copy(*upload, 0, *memory, 0, 1000);
            commands.barrier();
            commands.fill(*memory, 400, 8, 0x01020304);
            std::vector<std::byte> inlined(400, std::byte{9});  // more than one piece
            commands.update(*memory, 600, inlined);
            inlined.assign(400, std::byte{1});
            commands.barrier();
            commands.copy(*memory, 0, *download, 0, 1000);
            finish(*device, commands);
            CHECK(download->mapped()[599] == std::byte(599 % 251));
            CHECK(download->mapped()[600] == std::byte(9));
            CHECK(download->mapped()[999] == std::byte(9));
            CHECK(download->mapped()[399] == std::byte(399 % 251));
            CHECK(download->mapped()[400] == std::byte(4));
            CHECK(download->mapped()[407] == std::byte(1));
            CHECK(download->mapped()[408] == std::byte(408 % 251));
        }
        Commands nothing;
        finish(*device, nothing);
        CHECK(device->ledger().used() == 0);
    }
}

TEST_CASE("memory in use by the device outlives its buffer", "[host][device]") {
    for (Device* device : test::devices()) {
        auto download = device->allocate(1 << 20, Memory::download, "download");
        REQUIRE(download);
        uint64_t value = 0;
        {
            auto memory = device->allocate(1 << 20, Memory::device, "memory");
            REQUIRE(memory);
            Commands commands;
            commands.fill(*memory, 0, 1 << 20, 7);
            commands.barrier();
            commands.copy(*memory, 0, *download, 0, 1 << 20);
            auto submitted = device->submit(commands);
            REQUIRE(submitted);
            value = *submitted;
        }  // the buffer is gone while the copy may still run
        REQUIRE(device->wait(value));
        CHECK(download->mapped()[(1 << 20) - 4] == std::byte(7));
    }
}

TEST_CASE("the ledger refuses what exceeds the budget, with numbers", "[host][device]") {
    DeviceLimits clamp{.memory_budget = 1 << 20,
                       .max_allocation = 1 << 19,
                       .max_groups = 65535,
                       .max_invocations = 1024,
                       .shared_memory = 32768,
                       .subgroup_size = 128,
                       .round_to_nearest = true,
                       .preserve_special = true};
    std::vector<std::unique_ptr<Device>> clamped;
    clamped.push_back(openCpuDevice({.clamp = clamp}));
    for (uint32_t i = 0; i < test::vulkanDevices(); ++i)
        clamped.push_back(openVulkanDevice(i, {.clamp = clamp}).value());
    for (auto& device : clamped) {
        auto a = device->allocate(1 << 19, Memory::device, "first");
        auto b = device->allocate(1 << 18, Memory::device, "second");
        REQUIRE((a && b));
        auto c = device->allocate(1 << 19, Memory::device, "third");
        REQUIRE(!c);
        CHECK(c.error().code == ErrorCode::out_of_memory);
        CHECK(c.error().detail == "third: 524288 bytes asked, 786432 of the budget of 1048576 bytes in use");
        auto d = device->allocate((1 << 19) + 1, Memory::device, "fourth");
        REQUIRE(!d);
        CHECK(d.error().detail.find("one allocation of") != std::string::npos);
    }
}

TEST_CASE("a poorer device gives the same bits", "[host][device]") {
    test::RandomLayer random = test::makeRandomLayer(smallLayer(), WeightFormat::f16, 3);
    auto x = test::randomTokens(700, 64, 4);
    auto expected = forwardOn(**Engine::open({.device = "cpu"}), random, x);
    DeviceLimits clamp{.memory_budget = 20 << 20,
                       .max_allocation = 9 << 20,
                       .max_groups = 3000,
                       .max_invocations = 128,
                       .shared_memory = 16384,
                       .subgroup_size = 4,
                       .round_to_nearest = false,
                       .preserve_special = false};
    for (uint32_t i = 0; i <= test::vulkanDevices(); ++i) {
        EngineOptions options{.device = i == 0 ? "cpu" : "gpu:" + std::to_string(i - 1),
                              .device_options = {.clamp = clamp}};
        auto engine = Engine::open(options);
        if (!engine) FAIL(engine.error().detail);
        CHECK(forwardOn(**engine, random, x) == expected);
        CHECK((*engine)->device().ledger().peak() <= clamp.memory_budget);
    }
}

TEST_CASE("a budget too small for one token is an error with numbers", "[host][device]") {
    test::RandomLayer random = test::makeRandomLayer(smallLayer(), WeightFormat::f32, 3);
    DeviceLimits clamp{.memory_budget = 100000, .max_allocation = 100000};
    auto engine = Engine::open({.device = "cpu", .device_options = {.clamp = clamp}});
    auto layer = Layer::create(**engine, random.source);
    REQUIRE(!layer);
    CHECK(layer.error().code == ErrorCode::out_of_memory);
}

TEST_CASE("no result depends on the order of work between barriers", "[host]") {
    test::RandomLayer random = test::makeRandomLayer(smallLayer(), WeightFormat::bf16, 3);
    auto forwards = Engine::open({.device = "cpu"}),
         backwards = Engine::open({.device = "cpu", .device_options = {.backwards = true}});
    for (uint32_t tokens : {1u, 3u, 90u}) {
        auto x = test::randomTokens(tokens, 64, 4);
        CHECK(forwardOn(**forwards, random, x) == forwardOn(**backwards, random, x));
    }
}

TEST_CASE("the CPU gives the same bits with any number of threads", "[host]") {
    test::RandomLayer random = test::makeRandomLayer(smallLayer(), WeightFormat::f32, 3);
    auto x = test::randomTokens(333, 64, 4);
    auto expected = forwardOn(**Engine::open({.device = "cpu", .device_options = {.threads = 1}}), random, x);
    for (uint32_t threads : {2u, 3u, 7u})
        CHECK(forwardOn(**Engine::open({.device = "cpu", .device_options = {.threads = threads}}), random, x) ==
              expected);
}

TEST_CASE("a device that computes wrong is refused, and the row is named", "[host][device]") {
    for (uint32_t i = 0; i < test::vulkanDevices(); ++i) {
        std::string gpu = "gpu:" + std::to_string(i);
        auto broken_math = Engine::open({.device = gpu, .device_options = {.break_kernel = "math_probe"}});
        REQUIRE(!broken_math);
        CHECK(broken_math.error().code == ErrorCode::refused_device);
        CHECK(broken_math.error().detail.find("math_probe [add]: result[0] is 0x") != std::string::npos);

        auto engine = Engine::open({.device = gpu, .device_options = {.break_kernel = "combine"}});
        REQUIRE(engine);
        test::RandomLayer random = test::makeRandomLayer(smallLayer(), WeightFormat::f32, 3);
        auto layer = Layer::create(**engine, random.source);
        REQUIRE(layer);
        auto result = layer->forward(test::randomTokens(5, 64, 4));
        REQUIRE(!result);
        CHECK(result.error().code == ErrorCode::refused_device);
        CHECK(result.error().detail.find("combine [") != std::string::npos);
    }
}

TEST_CASE("a dispatch beyond one row of workgroups is folded", "[host][device]") {
    DeviceLimits clamp{.memory_budget = 1 << 30,
                       .max_allocation = 1 << 28,
                       .max_groups = 16,
                       .max_invocations = 128,
                       .shared_memory = 16384,
                       .subgroup_size = 4,
                       .round_to_nearest = true,
                       .preserve_special = true};
    auto scalar = openCpuDevice({.simd = false});
    for (uint32_t i = 0; i < test::vulkanDevices(); ++i) {
        auto device = openVulkanDevice(i, {.clamp = clamp});
        REQUIRE(device);
        Case fits = mathCase(0, 1, 16 * 15 * 64 + 1);
        auto got = run(**device, fits), expected = run(*scalar, fits);
        REQUIRE((got && expected));
        CHECK(!difference(fits, *got, *expected));
        auto refused = run(**device, mathCase(0, 1, 16 * 16 * 64 + 1));
        REQUIRE(!refused);
        CHECK(refused.error().detail.find("257 workgroups asked") != std::string::npos);
    }
}

TEST_CASE("choices that do not exist are errors", "[host]") {
    for (const char* choice : {"", "GPU", "gpu:", "gpu:x", "gpu:-1", "gpu:1x", "cuda"}) {
        auto engine = Engine::open({.device = choice});
        REQUIRE(!engine);
        CHECK(engine.error().code == ErrorCode::bad_input);
    }
    auto engine = Engine::open({.device = "gpu:99"});
    REQUIRE(!engine);
    CHECK(engine.error().code == ErrorCode::no_device);
}
