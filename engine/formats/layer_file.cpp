#include "engine/formats/layer_file.h"

#include <fmt/format.h>

#include <charconv>
#include <map>
#include <optional>

#include "engine/formats/checked.h"
#include "engine/formats/description_json.h"
#include "engine/formats/layer_reader.h"

namespace vkmoe::formats {
namespace {

struct Place {
    TensorRole role;
    std::optional<size_t> Found::*part;
};

// A name without its layer: "experts.up.weight" of "layers.2.experts.up.weight".
struct Split {
    std::optional<uint32_t> layer;
    std::string_view base;
};

Split splitName(std::string_view name) {
    constexpr std::string_view kPrefix = "layers.";
    if (!name.starts_with(kPrefix)) return {{}, name};
    const std::string_view rest = name.substr(kPrefix.size());
    const size_t dot = rest.find('.');
    if (dot == rest.npos || dot == 0 || (dot > 1 && rest.front() == '0')) return {{}, name};
    uint32_t layer = 0;
    const auto [end, failure] = std::from_chars(rest.data(), rest.data() + dot, layer);
    if (failure != std::errc() || end != rest.data() + dot) return {{}, name};
    return {layer, rest.substr(dot + 1)};
}

std::map<std::string, Place, std::less<>> listPlaces() {
    std::map<std::string, Place, std::less<>> places;
    for (const TensorRole role : allRoles()) {
        const RoleShape& shape = shapeOf(role);
        places.emplace(shape.name(), Place{role, &Found::weight});
        if (!shape.matrix) continue;
        places.emplace(shape.stem() + ".blocks", Place{role, &Found::blocks});
        places.emplace(shape.stem() + ".scales", Place{role, &Found::scales});
    }
    return places;
}

// Where a tensor of this name, without its layer, belongs; or null.
const Place* placeOf(std::string_view base) {
    static const auto places = listPlaces();
    const auto found = places.find(base);
    return found == places.end() ? nullptr : &found->second;
}

// Every tensor into its layer and role. A layer that is not numbered is number 0.
Result<void> sortTensors(const SafetensorsFiles& files, bool stack, std::vector<LayerParts>& layers) {
    for (size_t i = 0; i < files.size(); ++i) {
        const std::string_view name = files.at(i).name;
        if (const auto known = checkLayerTensorName(name); !known) return inFile(files.fileOf(i), known.error());
        const Split split = splitName(name);
        if (split.layer.has_value() != stack)
            return inputError(files.fileOf(i), fmt::format("tensor {} belongs to {}, but others to {}", shown(name),
                                                           stack ? "no layer" : "a layer", stack ? "one" : "none"));
        const uint32_t layer = split.layer.value_or(0);
        if (layer >= layers.size()) layers.resize(layer + 1);
        const Place* place = placeOf(split.base);
        layers[layer][size_t(place->role)].*place->part = i;
    }
    return {};
}

Result<void> checkModelDims(const SafetensorsFiles& files, const ModelSource& model) {
    const uint32_t first = model.layers[0].description.model_dim;
    for (size_t n = 1; n < model.layers.size(); ++n)
        if (const uint32_t dim = model.layers[n].description.model_dim; dim != first)
            return inputError(files.bytes()->name(), fmt::format("layers.{} has model_dim {}, layers.0 has {}; a stack "
                                                                 "has one",
                                                                 n, dim, first));
    return {};
}

bool isStack(const SafetensorsFiles& files) {
    return files.size() != 0 && splitName(files.at(0).name).layer.has_value();
}

}  // namespace

Result<void> checkLayerTensorName(std::string_view name) {
    const Split split = splitName(name);
    if (split.layer && *split.layer >= kMaxLayers)
        return Error{ErrorCode::bad_input, fmt::format("tensor {} belongs to layer {}, the last can be {}", shown(name),
                                                       *split.layer, kMaxLayers - 1)};
    if (placeOf(split.base) != nullptr) return {};
    return Error{ErrorCode::bad_input, fmt::format("tensor {} is not one of a layer file's tensors", shown(name))};
}

Result<ModelSource> readLayerFile(const SafetensorsFiles& files) {
    const std::string& file = files.bytes()->name();
    VKMOE_TRY(json, DescriptionJson::read(file, files.metadata()));
    ModelSource model{.format = FileFormat::layer_file, .stack = isStack(files), .layers = {}, .warnings = {}};
    std::vector<LayerParts> parts(1);
    VKMOE_CHECK(sortTensors(files, model.stack, parts));
    if (json.lastLayer() && (!model.stack || *json.lastLayer() >= parts.size()))
        return inputError(file, fmt::format("there is a description of layers.{}, but there are no tensors of it",
                                            *json.lastLayer()));
    uint64_t allowed = kMaxExpertTensors;
    for (uint32_t n = 0; n < parts.size(); ++n) {
        const std::string prefix = model.stack ? fmt::format("layers.{}.", n) : "";
        VKMOE_TRY(layer, readLayer(files, parts[n], prefix, json.layer(n), allowed));
        layer.index();
        model.layers.push_back(std::move(layer));
    }
    VKMOE_CHECK(checkModelDims(files, model));
    return model;
}

}  // namespace vkmoe::formats
