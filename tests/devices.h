// The devices every test runs on: the CPU with SIMD, and each Vulkan device the machine offers (the suite is run once
// per driver). All have a queue for transfers, emulated if need be.
#pragma once

#include <vector>

#include "host/device.h"

namespace test {

// Opened once per process. A Vulkan device that is offered must open: a failure ends the test program with a sentence.
const std::vector<vkmoe::Device*>& devices();

// The Vulkan ones among them.
std::vector<vkmoe::Device*> gpus();

// How many Vulkan devices the loader offers, for tests that open their own.
uint32_t vulkanDevices();

}  // namespace test
