#include "engine/formats/tensor_source.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

namespace vkmoe::formats {
namespace {

constexpr uint64_t kPieceBytes = uint64_t{1} << 20;

Result<void> copyRange(const ByteSource& bytes, uint64_t offset, uint64_t count, const ByteSink& put) {
    std::vector<std::byte> piece(std::min(count, kPieceBytes));
    for (uint64_t done = 0; done < count; done += piece.size()) {
        piece.resize(std::min(count - done, kPieceBytes));
        VKMOE_CHECK(bytes.read(offset + done, piece));
        VKMOE_CHECK(put(piece));
    }
    return {};
}

// Blocks of 16 bytes: from elements (j, j+16) in byte j to elements (2j, 2j+1).
void makeAdjacent(std::span<std::byte> codes) {
    for (; codes.size() >= 16; codes = codes.subspan(16)) {
        std::byte values[32];
        for (size_t j = 0; j < 16; ++j) {
            values[j] = codes[j] & std::byte{15};
            values[j + 16] = codes[j] >> 4;
        }
        for (size_t j = 0; j < 16; ++j) codes[j] = values[2 * j] | values[2 * j + 1] << 4;
    }
}

}  // namespace

uint64_t formatBytes(WeightFormat format, uint64_t count) {
    switch (format) {
        case WeightFormat::f32:
            return count * 4;
        case WeightFormat::f16:
        case WeightFormat::bf16:
            return count * 2;
        case WeightFormat::mxfp4:
            return count / 2;
    }
    return 0;
}

Result<void> copyTensor(const ByteSource& bytes, const TensorRange& tensor, const ByteSink& put) {
    const ByteSink adjacent = [&](std::span<const std::byte> codes) {
        std::vector<std::byte> changed(codes.begin(), codes.end());
        makeAdjacent(changed);
        return put(changed);
    };
    const bool halves = tensor.format == WeightFormat::mxfp4 && tensor.nibbles == Nibbles::halves;
    const ByteSink& sink = halves ? adjacent : put;
    if (tensor.row_step == 1) return copyRange(bytes, tensor.offset, tensor.bytes, sink);
    const uint64_t row = formatBytes(tensor.format, tensor.shape.back());
    for (uint64_t i = 0; i < tensor.shape.front(); ++i)
        VKMOE_CHECK(copyRange(bytes, tensor.offset + i * tensor.row_step * row, row, sink));
    return {};
}

Result<void> copyScales(const ByteSource& bytes, const TensorRange& tensor, const ByteSink& put) {
    if (tensor.row_step == 1) return copyRange(bytes, tensor.scales_offset, tensor.scales_bytes, put);
    const uint64_t row = tensor.shape.back() / 32;
    for (uint64_t i = 0; i < tensor.shape.front(); ++i)
        VKMOE_CHECK(copyRange(bytes, tensor.scales_offset + i * tensor.row_step * row, row, put));
    return {};
}

const TensorRange* LayerSource::find(const std::string& name) const {
    if (by_name.size() != tensors.size()) {
        const auto found =
            std::find_if(tensors.begin(), tensors.end(), [&](const auto& tensor) { return tensor.name == name; });
        return found == tensors.end() ? nullptr : &*found;
    }
    const auto found =
        std::lower_bound(by_name.begin(), by_name.end(), name,
                         [&](uint32_t i, const std::string& wanted) { return tensors[i].name < wanted; });
    return found == by_name.end() || tensors[*found].name != name ? nullptr : &tensors[*found];
}

void LayerSource::index() {
    by_name.resize(tensors.size());
    std::iota(by_name.begin(), by_name.end(), 0u);
    std::sort(by_name.begin(), by_name.end(),
              [&](uint32_t a, uint32_t b) { return tensors[a].name < tensors[b].name; });
}

std::string LayerSource::place(const TensorRange& tensor) const {
    return fmt::format("{}: tensor {}", bytes->nameAt(tensor.offset), tensor.shown());
}

}  // namespace vkmoe::formats
