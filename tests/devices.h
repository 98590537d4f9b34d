// The devices every test runs on: the CPU with SIMD, and each Vulkan device the machine offers (the suite is run once
// per driver).
#pragma once

#include <vector>

#include "host/device.h"

namespace test {

// Opened once per process. A Vulkan device that is offered must open: a failure ends the test program with a sentence.
const std::vector<vkmoe::Device*>& devices();

// The Vulkan ones among them.
std::vector<vkmoe::Device*> gpus();

}  // namespace test
