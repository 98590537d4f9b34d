// Recovery: an engine whose device is lost opens it again, and what was made before does no harm.
#include <catch2/catch_test_macros.hpp>
#include <optional>

#include "host/faults.h"
#include "tests/moe/random_layer.h"
#include "tests/must.h"
#include "vkmoe/layer.h"
#include "vkmoe/layer_trainer.h"

using namespace vkmoe;
using test::must;

namespace {

const test::RandomLayer& randomLayer() {
    static const test::RandomLayer random = test::makeRandomLayer(
        {.model_dim = 8, .hidden_dim = 8, .experts = 3, .top_k = 2, .score = Score::softmax, .renormalize = true},
        WeightFormat::f32, 3);
    return random;
}

std::vector<float> tokens() { return test::randomTokens(5, 8, 4); }

struct Lossy {
    std::shared_ptr<Faults> faults = std::make_shared<Faults>();
    std::unique_ptr<Engine> engine;

    explicit Lossy(uint32_t gpu) {
        engine = must(Engine::open(
            {.device = "gpu:" + std::to_string(gpu), .device_options = {.faults = faults}, .probe = false}));
    }

    Layer layer() { return must(Layer::create(*engine, randomLayer().source)); }

    void lose() {
        faults->arm({.call = FaultyCall::submit, .nth = 1});
        auto value = engine->device().submit({});
        REQUIRE(!value);
        CHECK(value.error().code == ErrorCode::device_lost);
        CHECK(engine->device().lost());
    }
};

std::vector<float> onCpu() {
    auto engine = must(Engine::open({.device = "cpu"}));
    return must(must(Layer::create(*engine, randomLayer().source)).forward(tokens())).output;
}

template <class Body>
void onEachGpu(const Body& body) {
    auto candidates = listVulkanDevices();
    for (uint32_t gpu = 0; candidates && gpu < candidates->size(); ++gpu) {
        CAPTURE(gpu);
        body(gpu);
    }
}

}  // namespace

TEST_CASE("an engine recovers from a loss with the same bits", "[faults][device]") {
    onEachGpu([](uint32_t gpu) {
        Lossy lossy(gpu);
        Engine& engine = *lossy.engine;
        std::optional<Layer> first = lossy.layer(), second = lossy.layer();
        auto expected = onCpu();
        CHECK(must(first->forward(tokens())).output == expected);
        REQUIRE(must(second->forward(tokens())).output == expected);
        const Kernel* kernel = must(engine.kernel(kernels().copy_words, {}));
        Buffer buffer = must(engine.device().allocate(1000, Memory::device, "buffer"));
        REQUIRE(engine.recover());
        CHECK(engine.generation() == 0);  // nothing was lost

        Device* old = &engine.device();
        lossy.lose();
        CHECK(test::saysLost(engine.kernel(kernels().copy_words, {})));
        CHECK(must(first->forward(tokens())).output == expected);  // it opens the device again, and loads itself
        CHECK(engine.generation() == 1);
        CHECK(&engine.device() != old);
        CHECK(must(second->forward(tokens())).output == expected);
        REQUIRE(engine.recover());  // whoever else was told may call it
        CHECK(engine.generation() == 1);
        CHECK(must(engine.kernel(kernels().copy_words, {})) != kernel);

        lossy.faults->arm({.call = FaultyCall::wait, .nth = 1});  // while it runs
        CHECK(must(first->forward(tokens())).output == expected);
        CHECK(engine.generation() == 2);
        CHECK(must(lossy.layer().forward(tokens())).output == expected);
        first.reset();
        CHECK(must(second->forward(tokens())).output == expected);
        second.reset();
        CHECK(old->ledger().used() == 1024);
        CHECK(engine.notes().empty());
    });
}

TEST_CASE("a trainer of a lost device says so, before and after the engine recovers", "[faults][device]") {
    onEachGpu([](uint32_t gpu) {
        Lossy lossy(gpu);
        if (lossy.engine->device().info().name.find("SwiftShader") != std::string::npos) return;  // compiles too long
        std::optional<LayerTrainer> trainer = must(LayerTrainer::create(*lossy.engine, randomLayer().source));
        must(trainer->epoch(tokens(), tokens()));
        lossy.faults->arm({.call = FaultyCall::submit, .nth = 2});
        for (bool recovered : {false, true}) {
            CAPTURE(recovered);
            CHECK(test::saysLost(trainer->epoch(tokens(), tokens())));
            auto more = test::randomTokens(50, 8, 4);  // needs memory anew
            CHECK(test::saysLost(trainer->epoch(more, more)));
            CHECK(test::saysLost(trainer->backward(more, more)));
            CHECK(test::saysLost(trainer->weights()));
            REQUIRE(lossy.engine->recover());
            CHECK(!lossy.engine->device().lost());
        }
        trainer.reset();
        CHECK(lossy.engine->generation() == 1);
    });
}

TEST_CASE("after three losses within a minute the CPU serves", "[faults][device]") {
    onEachGpu([](uint32_t gpu) {
        Lossy lossy(gpu);
        Engine& engine = *lossy.engine;
        std::vector<Buffer> buffers;
        for (uint64_t loss = 1; loss <= 3; ++loss) {
            buffers.push_back(must(engine.device().allocate(1000, Memory::upload, "buffer")));
            lossy.faults->arm({.call = FaultyCall::submit, .nth = 1});
            CHECK(test::saysLost(engine.device().submit({})));
            REQUIRE(engine.recover());
            CHECK(engine.generation() == loss);
            bool cpu = engine.device().info().type == DeviceType::cpu;
            CHECK(cpu == (loss == 3));
        }
        REQUIRE(engine.notes().size() == 1);
        CHECK(engine.notes()[0].ends_with("was lost (for the third time within a minute): the CPU serves"));
        Commands commands;
        commands.fill(buffers[0], 0, 4, 0);
        CHECK(test::saysLost(engine.device().submit(commands)));
        CHECK(must(lossy.layer().forward(tokens())).output == onCpu());
    });
}

TEST_CASE("a device that does not come back is replaced by the CPU", "[faults][device]") {
    onEachGpu([](uint32_t gpu) {
        Lossy lossy(gpu);
        lossy.faults->arm({.nth = 1, .lasting = true});  // it stays lost
        CHECK(test::saysLost(Layer::create(*lossy.engine, randomLayer().source)));
        REQUIRE(lossy.engine->recover());
        CHECK(lossy.engine->device().info().type == DeviceType::cpu);
        REQUIRE(lossy.engine->notes().size() == 1);
        CHECK(lossy.engine->notes()[0].find("VK_ERROR_DEVICE_LOST): the CPU serves") != std::string::npos);
        lossy.faults->disarm();
        CHECK(must(lossy.layer().forward(tokens())).output == onCpu());
    });
}
