// TensorSlice: some rows of a matrix, or a whole vector, on their way from a file to kernels.
#pragma once

#include <span>

#include "engine/formats/tensor_source.h"

namespace vkmoe {
inline namespace v1 {

struct TensorSlice {
    const formats::TensorRange* tensor;
    uint32_t first_row, rows, cols;  // cols = 0: a vector of `rows` values

    // In memory: the values, of a fused matrix also those of the rows between, and from a multiple of 16 on the scales.
    uint64_t valueBytes() const;
    uint64_t scaleBytes() const;
    uint64_t scalesAt() const;  // bytes from the slice's start
    uint64_t bytes() const;     // a multiple of 16

    uint64_t storedBytes(const ByteSource& source) const;  // that read() takes from where they are kept
    void announce(const ByteSource& source) const;         // that it will be read soon
    void forget(const ByteSource& source) const;           // that it was
    Result<void> read(const ByteSource& source, std::span<std::byte> into) const;

    // The element of the tensor that a kernel calls `index` in this slice.
    uint64_t element(uint32_t index) const { return uint64_t{first_row} * cols + index; }

private:
    uint64_t valuesOffset() const;  // in the file
    uint64_t scalesOffset() const;
};

// Slices of a matrix, each of whole panels, one at least, and of at most `bytes` bytes where that allows it.
std::vector<TensorSlice> sliceMatrix(const formats::TensorRange& tensor, uint64_t bytes);
TensorSlice wholeVector(const formats::TensorRange& tensor);

}  // namespace v1
}  // namespace vkmoe
