// What is changed in a kernel's SPIR-V when its pipeline is built.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace vkmoe {
inline namespace v1 {

// The module with the execution modes that the device advertises, which differ per device: RoundingModeRTE 32 and
// SignedZeroInfNanPreserve 32, each if asked for.
std::vector<uint32_t> withFloatModes(std::span<const uint32_t> spirv, bool round_to_nearest, bool preserve_special);

// Every float addition becomes a subtraction: a device that computes wrong, for tests.
void subtractForAdd(std::vector<uint32_t>& spirv);

}  // namespace v1
}  // namespace vkmoe
