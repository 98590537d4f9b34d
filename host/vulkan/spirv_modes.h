// Execution modes a device advertises, added to a kernel's SPIR-V when its pipeline is built (they differ per device).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace vkmoe {
inline namespace v1 {

// The module with RoundingModeRTE 32 and SignedZeroInfNanPreserve 32 requested, each if asked for.
std::vector<uint32_t> withFloatModes(std::span<const uint32_t> spirv, bool round_to_nearest, bool preserve_special);

}  // inline namespace v1
}  // namespace vkmoe
