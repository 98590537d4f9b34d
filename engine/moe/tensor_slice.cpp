#include "engine/moe/tensor_slice.h"

#include <fmt/format.h>

#include <algorithm>

#include "shaders/constants.h"

namespace vkmoe {
inline namespace v1 {
namespace {

constexpr uint64_t kAlign = 16;

uint64_t aligned(uint64_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign; }

uint64_t scaleBytesOf(WeightFormat format, uint64_t cols) { return format == WeightFormat::mxfp4 ? cols / kBlock : 0; }

// Rows of the file from the slice's first to its last.
uint64_t storedRows(const TensorSlice& slice) { return uint64_t{slice.rows - 1} * slice.tensor->row_step + 1; }

}  // namespace

uint64_t TensorSlice::valueBytes() const {
    if (cols == 0) return formats::formatBytes(tensor->format, rows);
    return storedRows(*this) * formats::formatBytes(tensor->format, cols);
}

uint64_t TensorSlice::scaleBytes() const {
    return cols == 0 ? 0 : storedRows(*this) * scaleBytesOf(tensor->format, cols);
}

uint64_t TensorSlice::scalesAt() const { return aligned(valueBytes()); }

uint64_t TensorSlice::bytes() const { return scalesAt() + aligned(scaleBytes()); }

uint64_t TensorSlice::valuesOffset() const {
    return tensor->offset + uint64_t{first_row} * tensor->row_step * formats::formatBytes(tensor->format, cols);
}

uint64_t TensorSlice::scalesOffset() const {
    return tensor->scales_offset + uint64_t{first_row} * tensor->row_step * scaleBytesOf(tensor->format, cols);
}

uint64_t TensorSlice::storedBytes(const ByteSource& source) const {
    return source.storedBytes(valuesOffset(), valueBytes()) + scaleBytes();
}

void TensorSlice::announce(const ByteSource& source) const {
    source.announce(valuesOffset(), valueBytes());
    if (scaleBytes() != 0) source.announce(scalesOffset(), scaleBytes());
}

void TensorSlice::forget(const ByteSource& source) const {
    source.forget(valuesOffset(), valueBytes());
    if (scaleBytes() != 0) source.forget(scalesOffset(), scaleBytes());
}

Result<void> TensorSlice::read(const ByteSource& source, std::span<std::byte> into) const {
    VKMOE_CHECK(source.read(valuesOffset(), into.subspan(0, valueBytes())));
    if (scaleBytes() == 0) return {};
    return source.read(scalesOffset(), into.subspan(scalesAt(), scaleBytes()));
}

std::vector<TensorSlice> sliceMatrix(const formats::TensorRange& tensor, uint64_t bytes) {
    auto rows = uint32_t(tensor.shape[0]), cols = uint32_t(tensor.shape[1]);
    uint64_t row_bytes =
        (formats::formatBytes(tensor.format, cols) + scaleBytesOf(tensor.format, cols)) * tensor.row_step;
    auto step = uint32_t(std::min<uint64_t>(std::max<uint64_t>((bytes - 2 * kAlign) / row_bytes / kPanel, 1) * kPanel,
                                            uint32_t{1} << 31));
    std::vector<TensorSlice> slices;
    for (uint32_t row = 0; row < rows; row += std::min(step, rows - row))
        slices.push_back({&tensor, row, std::min(step, rows - row), cols});
    return slices;
}

TensorSlice wholeVector(const formats::TensorRange& tensor) { return {&tensor, 0, uint32_t(tensor.shape[0]), 0}; }

}  // namespace v1
}  // namespace vkmoe
