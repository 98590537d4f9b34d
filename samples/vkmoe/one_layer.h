// What the commands that train share with each other: a file's only layer, and sentences about their files.
#pragma once

#include <string>
#include <vector>

#include "engine/formats/tensor_source.h"

namespace vkmoe::program {

// The layer of a file that holds one; its warnings go to stderr. A stack is an error.
Result<formats::LayerSource> openOneLayer(const std::string& path, bool compat);

// Rows of a file as readTokens reads them; one that is not finite, or not below 2^63, is an error.
Result<std::vector<float>> readFiniteRows(const std::string& path, uint32_t width);

}  // namespace vkmoe::program
