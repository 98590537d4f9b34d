#include "host/vulkan/spirv_rewrite.h"

namespace vkmoe {
inline namespace v1 {
namespace {

// SPIR-V 1.6 specification, sections 3.31 (capabilities) and 3.6 (execution modes); core since 1.4.
constexpr uint32_t kOpEntryPoint = 15, kOpExecutionMode = 16, kOpCapability = 17;
constexpr uint32_t kCapabilityPreserve = 4466, kCapabilityNearest = 4467;
constexpr uint32_t kModePreserve = 4461, kModeNearest = 4462;
constexpr uint32_t kOpFAdd = 129, kOpFSub = 131;
constexpr size_t kHeaderWords = 5;

void addCapability(std::vector<uint32_t>& out, uint32_t capability) {
    out.insert(out.end(), {2u << 16 | kOpCapability, capability});
}

void addMode(std::vector<uint32_t>& out, uint32_t entry, uint32_t mode) {
    out.insert(out.end(), {4u << 16 | kOpExecutionMode, entry, mode, 32u});
}

}  // namespace

std::vector<uint32_t> withFloatModes(std::span<const uint32_t> spirv, bool round_to_nearest, bool preserve_special) {
    std::vector<uint32_t> out(spirv.begin(), spirv.begin() + kHeaderWords);
    if (round_to_nearest) addCapability(out, kCapabilityNearest);
    if (preserve_special) addCapability(out, kCapabilityPreserve);
    for (size_t at = kHeaderWords; at < spirv.size();) {
        size_t words = spirv[at] >> 16;
        out.insert(out.end(), spirv.begin() + at, spirv.begin() + at + words);
        if ((spirv[at] & 0xffff) == kOpEntryPoint) {  // execution modes follow the only entry point
            if (round_to_nearest) addMode(out, spirv[at + 2], kModeNearest);
            if (preserve_special) addMode(out, spirv[at + 2], kModePreserve);
        }
        at += words;
    }
    return out;
}

void subtractForAdd(std::vector<uint32_t>& spirv) {
    for (size_t at = kHeaderWords; at < spirv.size(); at += spirv[at] >> 16)
        if ((spirv[at] & 0xffff) == kOpFAdd) spirv[at] = (spirv[at] & 0xffff0000u) | kOpFSub;
}

}  // namespace v1
}  // namespace vkmoe
