// RandomStack: stacks of layers with seeded random weights, of any size, for measurements.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "host/result.h"
#include "vkmoe/description.h"

namespace vkmoe::program {

struct RandomStack {
    uint32_t layers = 1;
    Description description;  // silu_glu, without biases and shared expert
    WeightFormat format = WeightFormat::f16;
    uint32_t seed = 1;
};

// Values of all tensors; an error names the field that is too large for a layer file.
Result<uint64_t> parameterCount(const RandomStack& stack);

// Writes a layer file, piece by piece. Tokens of ordinary size (up to about 4) stay so through dozens of layers.
// `progress` is told the values written so far.
Result<void> writeRandomStack(const std::string& path, const RandomStack& stack,
                              const std::function<void(uint64_t)>& progress);

}  // namespace vkmoe::program
