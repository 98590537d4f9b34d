// CheckValues: whether every weight is a number that the engine computes with.
#pragma once

#include "engine/formats/tensor_source.h"

namespace vkmoe::formats {

// Reads every tensor. Values that are not finite or not below 2^63 in size are an error that names file and tensor, how
// many there are, and the first one's row and column.
Result<void> checkValues(const LayerSource& layer);

// The same of some tensors of a file.
Result<void> checkValues(const ByteSource& file, std::span<const TensorRange> tensors);

}  // namespace vkmoe::formats
