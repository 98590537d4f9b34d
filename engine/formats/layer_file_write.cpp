#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "engine/formats/checked.h"
#include "engine/formats/description_json.h"
#include "engine/formats/layer_file.h"
#include "engine/formats/layer_tensors.h"

namespace vkmoe::formats {
namespace {

const char* dtypeOf(WeightFormat format) {
    switch (format) {
        case WeightFormat::f32:
            return "F32";
        case WeightFormat::f16:
            return "F16";
        case WeightFormat::bf16:
            return "BF16";
        case WeightFormat::mxfp4:
            return "U8";
    }
    return "?";
}

// A role's tensor, or its experts' in their order: all there, of one shape and format.
Result<std::vector<const TensorRange*>> collect(const LayerSource& layer, TensorRole role) {
    const RoleShape& shape = shapeOf(role);
    const std::vector<uint64_t> wanted = valueShape(role, layer.description);
    std::vector<const TensorRange*> ranges;
    for (uint32_t e = 0; e < (shape.routed ? layer.description.experts : 1); ++e) {
        const std::string name = shape.routed ? shape.expertName(e) : shape.name();
        const TensorRange* range = layer.find(name);
        if (range == nullptr) return inputError(layer.bytes->name(), fmt::format("tensor {} is missing", name));
        if (range->shape != wanted)
            return Error{ErrorCode::bad_input, fmt::format("{} has shape {}, must have {}", layer.place(*range),
                                                           shapeText(range->shape), shapeText(wanted))};
        if (!ranges.empty() && range->format != ranges[0]->format)
            return Error{ErrorCode::unsupported,
                         fmt::format("{} is {}, but expert 0's is {}: a layer file stores them as one tensor",
                                     layer.place(*range), vkmoe::name(range->format), vkmoe::name(ranges[0]->format))};
        ranges.push_back(range);
    }
    return ranges;
}

using Copy = Result<void> (*)(const ByteSource&, const TensorRange&, const ByteSink&);

TensorToWrite stacked(std::string name, const char* dtype, std::vector<uint64_t> shape, const LayerSource& layer,
                      std::vector<const TensorRange*> ranges, Copy copy) {
    return {std::move(name), dtype, std::move(shape),
            [&layer, ranges = std::move(ranges), copy](const ByteSink& put) -> Result<void> {
                for (const TensorRange* range : ranges) VKMOE_CHECK(copy(*layer.bytes, *range, put));
                return {};
            }};
}

Result<void> addRole(const LayerSource& layer, TensorRole role, const std::string& prefix,
                     std::vector<TensorToWrite>& tensors) {
    VKMOE_TRY(ranges, collect(layer, role));
    const WeightFormat format = ranges[0]->format;
    std::vector<uint64_t> shape = ranges[0]->shape;
    if (shapeOf(role).routed) shape.insert(shape.begin(), ranges.size());
    const std::string name = prefix + shapeOf(role).name();
    if (format != WeightFormat::mxfp4) {
        tensors.push_back(stacked(name, dtypeOf(format), std::move(shape), layer, std::move(ranges), copyTensor));
        return {};
    }
    const std::string stem = prefix + shapeOf(role).stem();
    shape.back() /= 32;
    tensors.push_back(stacked(stem + ".scales", "U8", shape, layer, ranges, copyScales));
    shape.push_back(16);
    tensors.push_back(stacked(stem + ".blocks", "U8", std::move(shape), layer, std::move(ranges), copyTensor));
    return {};
}

bool isThere(const LayerSource& layer, TensorRole role) {
    const RoleShape& shape = shapeOf(role);
    return layer.find(shape.routed ? shape.expertName(0) : shape.name()) != nullptr;
}

}  // namespace

Result<std::vector<TensorToWrite>> tensorsToWrite(const LayerSource& layer, const std::string& prefix, bool partial) {
    std::vector<TensorToWrite> tensors;
    for (const TensorRole role : allRoles())
        if (isPresent(role, layer.description) && (!partial || isThere(layer, role)))
            VKMOE_CHECK(addRole(layer, role, prefix, tensors));
    return tensors;
}

Result<void> writeLayerFile(const std::string& path, std::span<const LayerSource> layers, bool stack) {
    std::vector<TensorToWrite> tensors;
    std::vector<Description> descriptions;
    for (size_t n = 0; n < layers.size(); ++n) {
        const std::string prefix = stack ? fmt::format("layers.{}.", n) : "";
        descriptions.push_back(layers[n].description);
        VKMOE_TRY(of_layer, tensorsToWrite(layers[n], prefix));
        std::move(of_layer.begin(), of_layer.end(), std::back_inserter(tensors));
    }
    return writeSafetensors(path, tensors, {{kDescriptionKey, descriptionToJson(descriptions)}});
}

}  // namespace vkmoe::formats
