// What vkmoe inspect tells of a layer, and of the files that hold no layer alone.
#pragma once

#include <optional>
#include <string>

#include "engine/formats/tensor_source.h"
#include "samples/vkmoe/context.h"

namespace vkmoe::program {

Json layerJson(const formats::LayerSource& layer);
void printLayer(const formats::LayerSource& layer);

// Inspects a language model (EVL0), a delta (EVD0) or a package (.evermind), with full validation, and gives the exit
// code; nothing if the file is none of these.
std::optional<int> inspectModelFile(const Context& context, const std::string& path);

}  // namespace vkmoe::program
