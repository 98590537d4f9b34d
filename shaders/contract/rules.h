// The lists of the contract: which instructions, capabilities and so on a kernel may use. All are lists of what is
// allowed, so that whatever a later SPIR-V adds is refused until someone has thought about it.
#pragma once

#include <cstdint>
#include <spirv/unified1/spirv.hpp11>
#include <string>

namespace vkmoe::spirv {

// The float operations every device rounds alike, and OpFDiv, which is allowed only as an estimate.
// Their results are decorated with NoContraction (and so is GLSL.std.450 Fma).
bool isArithmetic(spv::Op op);
const char* arithmeticName(spv::Op op);

// Integer, logic, memory, control flow and exact conversions: the same bits everywhere.
bool isExact(spv::Op op);

// Exact on integers only: atomic moves, whose outcome depends on the order of workgroups, and a subgroup comparison.
bool isForIntegersOnly(spv::Op op);

bool isAllowedCapability(uint32_t capability);
bool isAllowedExecutionMode(uint32_t mode);
bool isAllowedDecoration(uint32_t decoration);  // all but those that permit less precision

// GLSL.std.450: integer functions, and FAbs, which clears one bit.
bool isExactGlsl(uint32_t number);
bool isGlslFma(uint32_t number);
bool isGlslSqrt(uint32_t number);

// Names for sentences; a number where there is none.
std::string glslName(uint32_t number);        // "GLSL.std.450 FMix"
std::string capabilityName(uint32_t number);  // "the capability Int64"
std::string refusalOf(spv::Op op);            // "OpDot: write the products and the sum out"

}  // namespace vkmoe::spirv
