// CheckValues: whether every weight is a number that the engine computes with.
#pragma once

#include "engine/formats/tensor_source.h"

namespace vkmoe::formats {

// Reads every tensor. Values that are not finite or not below 2^63 in size are an error that names file and tensor, how
// many there are, and the first one's row and column.
Result<void> checkValues(const LayerSource& layer);

// The sentence: so many values of a tensor, the first of them `element`. Where a scale of 255 makes them so, it names
// the scales and the scale's row and block.
Error notFinite(const ByteSource& file, const TensorRange& tensor, uint64_t count, uint64_t element);

// The same of some tensors of a file.
Result<void> checkValues(const ByteSource& file, std::span<const TensorRange> tensors);

// The same before any memory is taken for them, if that takes well under a second: 512 MiB at most, and 64 MiB where
// experts are paged, for reading all of them at once is what paging spares. What is larger is checked as it is loaded.
Result<void> checkBeforeLoading(std::span<const LayerSource> layers, bool paged);
Result<void> checkBeforeLoading(const ByteSource& file, std::span<const TensorRange> tensors, bool paged);

}  // namespace vkmoe::formats
