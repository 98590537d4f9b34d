#include "engine/formats/layer_file.h"

#include <fmt/format.h>

#include <charconv>
#include <map>
#include <optional>

#include "engine/formats/checked.h"
#include "engine/formats/description_json.h"
#include "engine/formats/layer_tensors.h"

namespace vkmoe::formats {
namespace {

constexpr const char* kMetadataKey = "vkmoe.moe";

// Where a role's bytes are: a tensor's number, or for MXFP4 those of its blocks and scales.
struct Found {
    std::optional<size_t> weight, blocks, scales;

    bool any() const { return weight || blocks || scales; }
    size_t first() const { return weight ? *weight : blocks ? *blocks : *scales; }
};
using LayerParts = std::array<Found, kTensorRoles>;

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

std::string stem(const RoleShape& shape) {  // "experts.up" of "experts.up.weight"
    const std::string name = shape.name();
    return name.substr(0, name.rfind('.'));
}

std::map<std::string, Place, std::less<>> listPlaces() {
    std::map<std::string, Place, std::less<>> places;
    for (const TensorRole role : allRoles()) {
        const RoleShape& shape = shapeOf(role);
        places.emplace(shape.name(), Place{role, &Found::weight});
        if (!shape.matrix) continue;
        places.emplace(stem(shape) + ".blocks", Place{role, &Found::blocks});
        places.emplace(stem(shape) + ".scales", Place{role, &Found::scales});
    }
    return places;
}

// Where a tensor of this name, without its layer, belongs; or null.
const Place* placeOf(std::string_view base) {
    static const auto places = listPlaces();
    const auto found = places.find(base);
    return found == places.end() ? nullptr : &found->second;
}

// Reads one layer's description and tensors out of the files' list.
class LayerReader {
public:
    LayerReader(const SafetensorsFiles& files, const LayerParts& parts, std::string prefix)
        : files_(files), parts_(parts), prefix_(std::move(prefix)) {}

    // Takes the number of experts' tensors that it lists from `allowed`.
    Result<LayerSource> read(const DescriptionFields& fields, uint64_t& allowed) {
        VKMOE_CHECK(describe(fields));
        if (expertTensors() > allowed)
            return inputError(source(), fmt::format("experts have more than {} tensors", kMaxExpertTensors));
        allowed -= expertTensors();
        VKMOE_CHECK(checkAgreement(fields));
        layer_.description = description_;
        layer_.bytes = files_.bytes();
        for (const TensorRole role : allRoles()) VKMOE_CHECK(addRole(role));
        return std::move(layer_);
    }

private:
    const Found& part(TensorRole role) const { return parts_[size_t(role)]; }
    bool has(TensorRole role) const { return part(role).any(); }
    const std::string& source() const { return files_.bytes()->name(); }
    std::string roleName(TensorRole role) const { return prefix_ + shapeOf(role).name(); }

    Error error(size_t tensor, const std::string& detail) const {
        return inputError(files_.fileOf(tensor), fmt::format("tensor {} {}", files_.at(tensor).name, detail));
    }
    uint64_t expertTensors() const {
        uint64_t tensors = 0;
        for (const TensorRole role : allRoles()) tensors += shapeOf(role).routed && has(role);
        return tensors * description_.experts;
    }

    // The dimension `axis` of a weight (before blocks of 32 where it is MXFP4) that other tensors are measured by.
    Result<uint32_t> dimension(TensorRole role, size_t axis, size_t rank) const {
        const Found& found = part(role);
        if (!found.any()) return inputError(source(), fmt::format("tensor {} is missing", roleName(role)));
        const size_t tensor = found.first();
        const auto shape = files_.at(tensor).shape;
        const size_t wanted = rank + (found.weight ? 0 : found.blocks ? 1 : 0);
        if (shape.size() != wanted)
            return error(tensor, fmt::format("has shape {}, must have {} dimensions", shapeText(shape), wanted));
        if (shape[axis] > UINT32_MAX) return error(tensor, fmt::format("has shape {}, too large", shapeText(shape)));
        return static_cast<uint32_t>(shape[axis]);
    }

    Result<void> describe(const DescriptionFields& fields) {
        Description& d = description_;
        d = fields.description;
        if (!fields.has_top_k)
            return inputError(source(), fmt::format("{}: {}top_k is missing", kMetadataKey, prefix_));
        VKMOE_TRY(experts, dimension(TensorRole::router_weight, 0, 2));
        VKMOE_TRY(model_dim, dimension(TensorRole::router_weight, 1, 2));
        VKMOE_TRY(hidden_dim, dimension(TensorRole::up_weight, 1, 3));
        d.experts = experts;
        d.model_dim = model_dim;
        d.hidden_dim = hidden_dim;
        d.router_bias = has(TensorRole::router_bias);
        d.selection_bias = has(TensorRole::selection_bias);
        d.gate_bias = has(TensorRole::gate_bias);
        d.up_bias = has(TensorRole::up_bias);
        d.down_bias = has(TensorRole::down_bias);
        VKMOE_CHECK(describeShared());
        const auto valid = validate(d);
        return valid ? Result<void>() : inFile(source() + (prefix_.empty() ? "" : ": " + layerName()), valid.error());
    }
    Result<void> describeShared() {
        Description& d = description_;
        for (const TensorRole role : allRoles())
            if (std::string_view(shapeOf(role).group) == "shared" && has(role)) d.shared = Shared::plain;
        if (d.shared == Shared::none) return {};
        if (has(TensorRole::shared_router_weight)) d.shared = Shared::sigmoid_gated;
        VKMOE_TRY(shared_dim, dimension(TensorRole::shared_up_weight, 0, 2));
        d.shared_dim = shared_dim;
        d.shared_gate_bias = has(TensorRole::shared_gate_bias);
        d.shared_up_bias = has(TensorRole::shared_up_bias);
        d.shared_down_bias = has(TensorRole::shared_down_bias);
        return {};
    }
    std::string layerName() const { return prefix_.substr(0, prefix_.size() - 1); }

    Result<void> checkAgreement(const DescriptionFields& fields) const {
        const auto check = [&](const char* field, const std::optional<bool>& says, TensorRole role) -> Result<void> {
            if (!says || *says == has(role)) return {};
            return inputError(source(), fmt::format("{}: {}{} is {}, but there is {} tensor {}", kMetadataKey, prefix_,
                                                    field, *says, has(role) ? "a" : "no", roleName(role)));
        };
        VKMOE_CHECK(check("router_bias", fields.router_bias, TensorRole::router_bias));
        VKMOE_CHECK(check("selection_bias", fields.selection_bias, TensorRole::selection_bias));
        if (!fields.shared || *fields.shared == description_.shared) return {};
        const bool gated = description_.shared == Shared::sigmoid_gated;
        const bool any = description_.shared != Shared::none && *fields.shared == Shared::none;
        const TensorRole telling = any || description_.shared == Shared::none ? TensorRole::shared_up_weight
                                                                              : TensorRole::shared_router_weight;
        return inputError(source(),
                          fmt::format("{}: {}shared is {}, but there is {} tensor {}", kMetadataKey, prefix_,
                                      vkmoe::name(*fields.shared), any || gated ? "a" : "no", roleName(telling)));
    }

    Result<void> addRole(TensorRole role) {
        const Found& found = part(role);
        if (!isPresent(role, description_)) {
            if (!found.any()) return {};
            return error(found.first(), fmt::format("has no place in a layer whose activation is {}",
                                                    vkmoe::name(description_.activation)));
        }
        if (!found.any()) return inputError(source(), fmt::format("tensor {} is missing", roleName(role)));
        return found.weight && !found.blocks && !found.scales ? addPlain(role) : addMxfp4(role);
    }

    Result<void> checkShape(size_t tensor, const std::vector<uint64_t>& wanted) const {
        const auto shape = files_.at(tensor).shape;
        if (std::equal(shape.begin(), shape.end(), wanted.begin(), wanted.end())) return {};
        return error(tensor, fmt::format("has shape {}, must have {}", shapeText(shape), shapeText(wanted)));
    }
    std::vector<uint64_t> stacked(TensorRole role, std::vector<uint64_t> shape) const {
        if (shapeOf(role).routed) shape.insert(shape.begin(), description_.experts);
        return shape;
    }

    Result<void> addPlain(TensorRole role) {
        const size_t number = *part(role).weight;
        const SafetensorsTensor tensor = files_.at(number);
        TensorRange range;
        if (tensor.dtype == "F32")
            range.format = WeightFormat::f32;
        else if (tensor.dtype == "F16")
            range.format = WeightFormat::f16;
        else if (tensor.dtype == "BF16")
            range.format = WeightFormat::bf16;
        else
            return error(number, fmt::format("is {}, must be F32, F16 or BF16", shown(tensor.dtype)));
        range.shape = valueShape(role, description_);
        VKMOE_CHECK(checkShape(number, stacked(role, range.shape)));
        range.offset = tensor.offset;
        range.bytes = tensor.bytes / experts(role);
        addRanges(role, range, tensor.name);
        return {};
    }

    // A number of columns that is no multiple of 32 cannot match the shape of any blocks.
    Result<void> addMxfp4(TensorRole role) {
        const Found& found = part(role);
        const std::string name = prefix_ + stem(shapeOf(role));
        if (found.weight)
            return error(*found.weight, fmt::format("is beside {}.blocks or .scales, must be alone", name));
        if (!found.blocks || !found.scales)
            return error(found.first(),
                         fmt::format("is there, but not {}{}", name, found.blocks ? ".scales" : ".blocks"));
        for (const size_t number : {*found.blocks, *found.scales})
            if (const auto dtype = files_.at(number).dtype; dtype != "U8")
                return error(number, fmt::format("is {}, must be U8", shown(dtype)));
        TensorRange range{.format = WeightFormat::mxfp4, .shape = valueShape(role, description_)};
        const uint64_t rows = range.shape[0], cols = range.shape[1];
        if (cols % 32 != 0)
            return error(*found.blocks, fmt::format("has rows of {} values, must be a multiple of 32", cols));
        VKMOE_CHECK(checkShape(*found.blocks, stacked(role, {rows, cols / 32, 16})));
        VKMOE_CHECK(checkShape(*found.scales, stacked(role, {rows, cols / 32})));
        const SafetensorsTensor blocks = files_.at(*found.blocks), scales = files_.at(*found.scales);
        range.offset = blocks.offset;
        range.bytes = blocks.bytes / experts(role);
        range.scales_offset = scales.offset;
        range.scales_bytes = scales.bytes / experts(role);
        addRanges(role, range, blocks.name);
        return {};
    }

    uint64_t experts(TensorRole role) const { return shapeOf(role).routed ? description_.experts : 1; }

    // One range for each expert, or one.
    void addRanges(TensorRole role, TensorRange range, std::string_view label) {
        const RoleShape& shape = shapeOf(role);
        range.name = shape.name();
        range.label = label;
        if (!shape.routed) return layer_.tensors.push_back(std::move(range));
        for (uint32_t e = 0; e < description_.experts; ++e) {
            range.name = shape.expertName(e);
            range.label = fmt::format("{}[{}]", label, e);
            layer_.tensors.push_back(range);
            range.offset += range.bytes;
            range.scales_offset += range.scales_bytes;
        }
    }

    const SafetensorsFiles& files_;
    const LayerParts& parts_;
    std::string prefix_;
    Description description_;
    LayerSource layer_;
};

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
    const std::string* text = files.metadata(kMetadataKey);
    if (text == nullptr)
        return inputError(file, fmt::format("is no layer file: its __metadata__ has no {}", kMetadataKey));
    VKMOE_TRY(json, DescriptionJson::read(file, *text));
    ModelSource model{.format = FileFormat::layer_file, .stack = isStack(files), .layers = {}, .warnings = {}};
    std::vector<LayerParts> parts(1);
    VKMOE_CHECK(sortTensors(files, model.stack, parts));
    if (json.lastLayer() && (!model.stack || *json.lastLayer() >= parts.size()))
        return inputError(
            file, fmt::format("{} has layers.{}, but there are no tensors of it", kMetadataKey, *json.lastLayer()));
    uint64_t allowed = kMaxExpertTensors;
    for (uint32_t n = 0; n < parts.size(); ++n) {
        LayerReader reader(files, parts[n], model.stack ? fmt::format("layers.{}.", n) : "");
        VKMOE_TRY(layer, reader.read(json.layer(n), allowed));
        layer.index();
        model.layers.push_back(std::move(layer));
    }
    VKMOE_CHECK(checkModelDims(files, model));
    return model;
}

}  // namespace vkmoe::formats
