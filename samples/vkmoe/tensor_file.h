// Raw tensors: little-endian f32 files, row-major.
#pragma once

#include <string>
#include <vector>

#include "host/result.h"

namespace vkmoe::program {

// All values of a file whose rows hold `width` of them; a size that is no whole number of rows is an error.
Result<std::vector<float>> readTokens(const std::string& path, uint32_t width);
Result<void> writeTokens(const std::string& path, const std::vector<float>& values);
// [tokens, width] values in [-1, 1], the same at every call with the seed.
std::vector<float> randomTokens(uint32_t tokens, uint32_t width, uint32_t seed = 1);
Result<void> writeText(const std::string& path, const std::string& text);

}  // namespace vkmoe::program
