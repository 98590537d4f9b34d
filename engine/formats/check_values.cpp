#include "engine/formats/check_values.h"

#include <fmt/format.h>

#include <cmath>
#include <cstring>

#include "engine/formats/checked.h"

namespace vkmoe::formats {
namespace {

constexpr uint32_t kExponent63 = 127 + 63;  // of 2^63 as f32 and bf16 hold it

uint64_t bytesOf(std::span<const TensorRange> tensors) {
    uint64_t bytes = 0;
    for (const TensorRange& tensor : tensors) bytes += tensor.bytes;
    return bytes;
}

bool isSoonChecked(uint64_t bytes, bool paged) { return bytes <= uint64_t{paged ? 64u : 512u} << 20; }

// Counts strange values as they come by.
struct Strange {
    uint64_t seen = 0, count = 0, first = 0;

    void next(bool strange) {
        if (strange && count++ == 0) first = seen;
        ++seen;
    }
};

template <class Word, class IsStrange>
ByteSink words(Strange& strange, IsStrange is_strange) {
    return [&strange, is_strange](std::span<const std::byte> bytes) -> Result<void> {
        for (; bytes.size() >= sizeof(Word); bytes = bytes.subspan(sizeof(Word))) {
            Word word = 0;
            std::memcpy(&word, bytes.data(), sizeof word);
            strange.next(is_strange(word));
        }
        return {};
    };
}

ByteSink plainSink(WeightFormat format, Strange& strange) {
    if (format == WeightFormat::f32)
        return words<uint32_t>(strange, [](uint32_t bits) { return (bits >> 23 & 255) >= kExponent63; });
    if (format == WeightFormat::f16)
        return words<uint16_t>(strange, [](uint16_t bits) { return (bits >> 10 & 31) == 31; });
    return words<uint16_t>(strange, [](uint16_t bits) { return (bits >> 7 & 255u) >= kExponent63; });
}

// Whether one of MXFP4's codes may be strange: six times smaller scales stays below 2^63.
bool isLargeScale(uint32_t scale) { return scale >= 127 + 61; }

bool isStrangeCode(uint32_t code, uint32_t scale) {
    constexpr double kMagnitudes[8] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
    return scale == 255 || (isLargeScale(scale) && std::ldexp(kMagnitudes[code & 7], int(scale) - 127) >= 0x1p63);
}

Result<Strange> lookAt(const ByteSource& file, const TensorRange& tensor) {
    Strange strange;
    if (tensor.format != WeightFormat::mxfp4) {
        VKMOE_CHECK(copyTensor(file, tensor, plainSink(tensor.format, strange)));
        return strange;
    }
    std::vector<std::byte> scales;
    VKMOE_CHECK(copyScales(file, tensor, [&](std::span<const std::byte> bytes) -> Result<void> {
        scales.insert(scales.end(), bytes.begin(), bytes.end());
        return {};
    }));
    VKMOE_CHECK(copyTensor(file, tensor, [&](std::span<const std::byte> bytes) -> Result<void> {
        for (const std::byte codes : bytes) {
            const uint32_t scale = std::to_integer<uint32_t>(scales[strange.seen / 32]);
            strange.next(isStrangeCode(std::to_integer<uint32_t>(codes & std::byte{15}), scale));
            strange.next(isStrangeCode(std::to_integer<uint32_t>(codes >> 4), scale));
        }
        return {};
    }));
    return strange;
}

// "experts.up.scales[1]" of "experts.up.blocks[1]".
std::string scalesName(const TensorRange& tensor) {
    constexpr std::string_view kBlocks = ".blocks";
    std::string name = tensor.shown();
    const size_t at = name.rfind(kBlocks);
    return at == name.npos ? name + "'s scales" : name.replace(at, kBlocks.size(), ".scales");
}

bool scaleIs255(const ByteSource& file, const TensorRange& tensor, uint64_t row, uint64_t block) {
    std::byte scale{};
    const uint64_t at = row * tensor.row_step * (tensor.shape.back() / 32) + block;
    return file.read(tensor.scales_offset + at, {&scale, 1}) && scale == std::byte{255};
}

}  // namespace

Error notFinite(const ByteSource& file, const TensorRange& tensor, uint64_t count, uint64_t element) {
    const uint64_t cols = tensor.shape.back(), row = element / cols, col = element % cols;
    if (tensor.format == WeightFormat::mxfp4 && scaleIs255(file, tensor, row, col / 32))
        return inputError(
            file.nameAt(tensor.scales_offset),
            fmt::format("{} holds 255 at row {}, block {}, which is no scale", scalesName(tensor), row, col / 32));
    const std::string where =
        tensor.shape.size() > 1 ? fmt::format("row {}, column {}", row, col) : fmt::format("element {}", element);
    return inputError(file.nameAt(tensor.offset),
                      fmt::format("{} holds {} values that are not finite or not below 2^63 in size, the first at {}",
                                  tensor.shown(), count, where));
}

Result<void> checkValues(const ByteSource& file, std::span<const TensorRange> tensors) {
    for (const TensorRange& tensor : tensors) {
        VKMOE_TRY(strange, lookAt(file, tensor));
        if (strange.count != 0) return notFinite(file, tensor, strange.count, strange.first);
    }
    return {};
}

Result<void> checkValues(const LayerSource& layer) { return checkValues(*layer.bytes, layer.tensors); }

Result<void> checkBeforeLoading(std::span<const LayerSource> layers, bool paged) {
    uint64_t bytes = 0;
    for (const LayerSource& layer : layers) bytes += bytesOf(layer.tensors);
    if (!isSoonChecked(bytes, paged)) return {};
    for (const LayerSource& layer : layers) VKMOE_CHECK(checkValues(layer));
    return {};
}

Result<void> checkBeforeLoading(const ByteSource& file, std::span<const TensorRange> tensors, bool paged) {
    return isSoonChecked(bytesOf(tensors), paged) ? checkValues(file, tensors) : Result<void>();
}

}  // namespace vkmoe::formats
