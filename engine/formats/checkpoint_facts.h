// CheckpointFacts: what a package's manifest repeats of its checkpoint.
#pragma once

#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/formats/evl0.h"
#include "engine/formats/tensor_source.h"

namespace vkmoe::formats {

struct CheckpointFacts {
    const char* model_type;
    const char* format;                                    // "MoE0" or "EVL0"
    std::vector<std::pair<const char*, uint32_t>> config;  // in the manifest's order
    uint64_t parameters = 0;
    bool fp16 = false;
};

CheckpointFacts factsOf(const LayerSource& layer);  // of a MoE0 file
CheckpointFacts factsOf(const LmSource& model);

// The names alone, of a modelType; none of an unknown one.
std::vector<const char*> configNames(std::string_view model_type);
const char* formatName(std::string_view model_type);

}  // namespace vkmoe::formats
