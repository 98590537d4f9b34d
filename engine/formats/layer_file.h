// LayerFile: mixture-of-experts layers in the engine's own terms, as a safetensors file.
//
// Tensors, row-major; optional ones are absent, gates are there for the GLU activations only:
//
//     router.weight [E,D]  router.bias [E]  router.selection_bias [E]
//     experts.gate.weight experts.up.weight [E,F,D]  experts.down.weight [E,D,F]
//     experts.gate.bias experts.up.bias [E,F]  experts.down.bias [E,D]
//     shared.gate.weight shared.up.weight [S,D]  shared.down.weight [D,S]
//     shared.gate.bias shared.up.bias [S]  shared.down.bias [D]  shared.router.weight [D]
//
// as F32, F16 or BF16. The matrices of experts may be MXFP4: X.blocks U8 [.., rows, cols/32, 16] (low nibble: even
// element) and X.scales U8 [.., rows, cols/32] in place of X.weight. __metadata__["vkmoe.moe"] is the description
// (description_json.h). A stack puts "layers.N." before each name, and may describe a layer in
// __metadata__["layers.N"].
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "engine/formats/model_source.h"
#include "engine/formats/safetensors_files.h"

namespace vkmoe::formats {

inline constexpr uint64_t kMaxExpertTensors = 200'000;  // of all layers together: what a file may make a reader list

// Whether a tensor of this name, with its layer in a stack, is one of those above.
Result<void> checkLayerTensorName(std::string_view name);

// Checks every tensor's presence, shape and dtype, and every description; reads no tensor. A tensor that is not listed
// above is an error.
Result<ModelSource> readLayerFile(const SafetensorsFiles& files);

// Writes layers of any source; formats stay as they are. Each layer needs the tensors its description says; an expert's
// tensor must have the format that expert 0's has. Without `stack` there is one layer.
Result<void> writeLayerFile(const std::string& path, std::span<const LayerSource> layers, bool stack);

// The tensors of one layer as such a file has them, experts as one tensor; `layer` must outlive them. With `partial` a
// tensor that the layer lacks is left out, e.g. where these are gradients.
Result<std::vector<TensorToWrite>> tensorsToWrite(const LayerSource& layer, const std::string& prefix = "",
                                                  bool partial = false);

}  // namespace vkmoe::formats
