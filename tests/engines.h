// One engine per device of tests/devices.h: CPU scalar, CPU SIMD, and every Vulkan device, opened once per process.
#pragma once

#include <vector>

#include "vkmoe/engine.h"

namespace test {

const std::vector<vkmoe::Engine*>& engines();

}  // namespace test
