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

struct Opened {
    std::vector<std::unique_ptr<Engine>> owned;
    std::vector<Engine*> all;
};

Opened openAll() {
    Opened opened;
    opened.owned.push_back(mustOpen({.device = "cpu", .device_options = {.simd = false}}));
    opened.owned.push_back(mustOpen({.device = "cpu"}));
    auto candidates = vkmoe::listVulkanDevices();
    for (size_t i = 0; candidates && i < candidates->size(); ++i)
        opened.owned.push_back(mustOpen({.device = "gpu:" + std::to_string(i)}));
    for (auto& engine : opened.owned) opened.all.push_back(engine.get());
    return opened;
}

}  // namespace

const std::vector<vkmoe::Engine*>& engines() {
    static Opened opened = openAll();
    return opened.all;
}

}  // namespace test
