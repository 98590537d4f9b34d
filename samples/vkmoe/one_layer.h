// What the commands that train share with each other: a file's only layer, and sentences about their files.
#pragma once

#include <string>

#include "engine/formats/tensor_source.h"

namespace vkmoe::program {

// The layer of a file that holds one; its warnings go to stderr. A stack is an error.
Result<formats::LayerSource> openOneLayer(const std::string& path, bool compat);

// Before any work: the path is no folder, and is in one that exists.
Result<void> checkTarget(const std::string& path);

// An error about "the input" or about the second tensor, with its file's name in front.
Error aboutFiles(const std::string& input, const std::string& second, Error error);

}  // namespace vkmoe::program
