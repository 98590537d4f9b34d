// One engine per device of tests/devices.h: CPU scalar, CPU SIMD, and every Vulkan device, opened once per process. They are
// not probed: the tests compare bits themselves, and probes would have drivers compile forms that no test runs.
#pragma once

#include <vector>

#include "host/device.h"
#include "vkmoe/engine.h"

namespace test {

const std::vector<vkmoe::Engine*>& engines();

inline bool isHost(vkmoe::Engine& engine) { return engine.device().info().type == vkmoe::DeviceType::cpu; }

}  // namespace test
