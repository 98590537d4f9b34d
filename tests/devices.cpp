#include "tests/devices.h"

#include <cstdio>
#include <cstdlib>
#include <memory>

#include "engine/clamp.h"

namespace test {
namespace {

struct Opened {
    std::vector<std::unique_ptr<vkmoe::Device>> owned;
    std::vector<vkmoe::Device*> all;
};

Opened openAll() {
    Opened opened;
    opened.owned.push_back(vkmoe::openCpuDevice({.emulate_transfer_queue = true}));
    auto candidates = vkmoe::listVulkanDevices();
    auto clamp = vkmoe::clampFromEnvironment();
    if (!clamp) {
        std::fprintf(stderr, "%s\n", clamp.error().detail.c_str());
        std::exit(1);
    }
    if (candidates) {
        for (uint32_t i = 0; i < candidates->size(); ++i) {
            auto device = vkmoe::openVulkanDevice(i, {.clamp = *clamp, .emulate_transfer_queue = true});
            if (!device) {
                std::fprintf(stderr, "%s\n", device.error().detail.c_str());
                std::exit(1);
            }
            opened.owned.push_back(std::move(device).value());
        }
    }
    bool needed = std::getenv("VKMOE_TEST_NEEDS_GPU") != nullptr;
    if (needed && opened.owned.size() < 2) {
        std::fprintf(stderr, "no Vulkan device, and VKMOE_TEST_NEEDS_GPU is set\n");
        std::exit(1);
    }
    for (auto& device : opened.owned) opened.all.push_back(device.get());
    return opened;
}

}  // namespace

const std::vector<vkmoe::Device*>& devices() {
    static Opened opened = openAll();
    return opened.all;
}

uint32_t vulkanDevices() {
    auto candidates = vkmoe::listVulkanDevices();
    return candidates ? uint32_t(candidates->size()) : 0;
}

std::vector<vkmoe::Device*> gpus() { return {devices().begin() + 1, devices().end()}; }

}  // namespace test
