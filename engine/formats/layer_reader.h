// LayerReader: one layer of a layer file: its description completed by its tensors, and these as ranges.
#pragma once

#include <array>
#include <optional>
#include <string>

#include "engine/formats/description_json.h"
#include "engine/formats/layer_tensors.h"
#include "engine/formats/safetensors_files.h"
#include "engine/formats/tensor_source.h"

namespace vkmoe::formats {

// Where a role's bytes are: a tensor's number, or for MXFP4 those of its blocks and scales.
struct Found {
    std::optional<size_t> weight, blocks, scales;

    bool any() const { return weight || blocks || scales; }
    size_t first() const { return weight ? *weight : blocks ? *blocks : *scales; }
};
using LayerParts = std::array<Found, kTensorRoles>;

// Checks the layer whose tensors' names start with `prefix` ("" or "layers.2."), and takes the number of experts'
// tensors that it lists from `allowed`.
Result<LayerSource> readLayer(const SafetensorsFiles& files, const LayerParts& parts, const std::string& prefix,
                              const DescriptionFields& fields, uint64_t& allowed);

}  // namespace vkmoe::formats
