#include "tests/engines.h"

#include <cstdio>
#include <cstdlib>

#include "host/device.h"

namespace test {
namespace {

using vkmoe::Engine;

std::unique_ptr<Engine> mustOpen(const vkmoe::EngineOptions& options) {
    auto engine = Engine::open(options);
    if (engine) return std::move(engine).value();
    std::fprintf(stderr, "%s: %s\n", options.device.c_str(), engine.error().detail.c_str());
    std::exit(1);
}

struct OpenedEngines {
    std::vector<std::unique_ptr<Engine>> owned;
    std::vector<Engine*> all;
};

OpenedEngines openEngines() {
    OpenedEngines opened;
    opened.owned.push_back(
        mustOpen({.device = "cpu", .device_options = {.simd = false, .emulate_transfer_queue = true}}));
    opened.owned.push_back(mustOpen({.device = "cpu", .device_options = {.emulate_transfer_queue = true}}));
    auto candidates = vkmoe::listVulkanDevices();
    for (size_t i = 0; candidates && i < candidates->size(); ++i)
        opened.owned.push_back(mustOpen({.device = "gpu:" + std::to_string(i),
                                         .device_options = {.emulate_transfer_queue = true},
                                         .probe = false}));
    for (auto& engine : opened.owned) opened.all.push_back(engine.get());
    return opened;
}

}  // namespace

const std::vector<vkmoe::Engine*>& engines() {
    static OpenedEngines opened = openEngines();
    return opened.all;
}

}  // namespace test
