#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cassert>
#include <nlohmann/json.hpp>
#include <optional>
#include <unordered_set>

#include "engine/formats/checked.h"
#include "engine/formats/safetensors.h"

namespace vkmoe::formats {
namespace {

using Json = nlohmann::ordered_json;

struct Placed {
    const TensorToWrite* tensor;
    uint64_t bytes;
};

// The largest of 8, 4, 2, 1 that divides a size. Sizes are multiples of their value's size: ordered by this, from large
// to small, no tensor starts between values.
uint64_t alignmentOf(uint64_t bytes) { return bytes % 8 == 0 ? 8 : bytes % 4 == 0 ? 4 : bytes % 2 == 0 ? 2 : 1; }

Result<std::vector<Placed>> place(const std::string& path, std::span<const TensorToWrite> tensors) {
    std::vector<Placed> placed;
    std::unordered_set<std::string> names;
    for (const TensorToWrite& tensor : tensors) {
        if (tensor.name == "__metadata__" || tensor.name.size() > 256 || !names.insert(tensor.name).second)
            return inputError(
                path, fmt::format("tensor {} cannot be written: the name is taken or too long", shown(tensor.name)));
        const uint32_t bits = safetensorsBits(tensor.dtype);
        const std::optional<uint64_t> count = checkedProduct(tensor.shape);
        const std::optional<uint64_t> all = count ? checkedMul(*count, bits) : count;
        if (bits < 8 || !all)
            return inputError(path, fmt::format("tensor {} cannot be written as {} {}", shown(tensor.name),
                                                tensor.dtype, shapeText(tensor.shape)));
        placed.push_back({&tensor, *all / 8});
    }
    std::stable_sort(placed.begin(), placed.end(),
                     [](const Placed& a, const Placed& b) { return alignmentOf(a.bytes) > alignmentOf(b.bytes); });
    return placed;
}

// Padded with spaces, so that the data start at a multiple of 8.
std::string headerText(const std::vector<Placed>& placed, const std::map<std::string, std::string>& metadata) {
    Json header = Json::object();
    if (!metadata.empty()) header["__metadata__"] = metadata;
    uint64_t offset = 0;
    for (const auto& [tensor, bytes] : placed) {
        header.push_back(
            {tensor->name,
             {{"dtype", tensor->dtype}, {"shape", tensor->shape}, {"data_offsets", {offset, offset + bytes}}}});
        offset += bytes;
    }
    std::string text = header.dump(-1, ' ', false, Json::error_handler_t::replace);
    text.resize((text.size() + 7) / 8 * 8, ' ');
    return text;
}

Result<void> fillTensor(const Placed& placed, const std::string& path, const ByteSink& put) {
    uint64_t given = 0;
    const ByteSink counted = [&](std::span<const std::byte> bytes) {
        given += bytes.size();
        return put(bytes);
    };
    VKMOE_CHECK(placed.tensor->fill(counted));
    if (given == placed.bytes) return {};
    return Error{ErrorCode::internal, fmt::format("{}: tensor {} has {} bytes, {} were given", path,
                                                  shown(placed.tensor->name), placed.bytes, given)};
}

}  // namespace

Result<void> writeSafetensors(const std::string& path, std::span<const TensorToWrite> tensors,
                              const std::map<std::string, std::string>& metadata) {
    VKMOE_TRY(placed, place(path, tensors));
    const std::string header = headerText(placed, metadata);
    if (header.size() > kSafetensorsMaxHeader)
        return inputError(path, fmt::format("the header would have {} bytes, at most {} are read", header.size(),
                                            kSafetensorsMaxHeader));
    return writeFileInPieces(path, [&](const ByteSink& put) -> Result<void> {
        std::array<std::byte, 8> length = {};
        for (size_t i = 0; i < length.size(); ++i) length[i] = std::byte(header.size() >> 8 * i & 255);
        VKMOE_CHECK(put(length));
        VKMOE_CHECK(put(std::as_bytes(std::span(header))));
        for (const Placed& tensor : placed) VKMOE_CHECK(fillTensor(tensor, path, put));
        return {};
    });
}

}  // namespace vkmoe::formats
