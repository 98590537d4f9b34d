// Reading a layer's tensors back from the device, row-major f32: trained weights, or gradients, which have their
// layout.
#pragma once

#include <span>

#include "engine/formats/tensor_source.h"
#include "engine/moe/weights.h"

namespace vkmoe {
inline namespace v1 {

// Panels of 16 rows of a [rows, cols] f32 matrix, row-major.
void unpackPanels(std::span<const float> panels, uint32_t rows, uint32_t cols, std::span<float> out);
void packPanels(std::span<const float> values, uint32_t rows, uint32_t cols, std::span<float> panels);

// A layer's tensors in memory. `slabs` and `router` are `weights`' own, or gradients of the same layout; `weights` is
// f32 throughout. `name` stands for the source in errors. Gradients have no selection bias.
Result<formats::LayerSource> readBack(Engine& engine, const Weights& weights, std::span<const Buffer> slabs,
                                      const Buffer& router, const std::string& name, bool gradients);

}  // namespace v1
}  // namespace vkmoe
