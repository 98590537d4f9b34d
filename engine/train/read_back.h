// Reading a layer's tensors back from the device, row-major f32: trained weights, or gradients, which have their
// layout.
#pragma once

#include <span>
#include <vector>

#include "engine/formats/tensor_source.h"
#include "engine/moe/weights.h"

namespace vkmoe {
inline namespace v1 {

// Panels of 16 rows of a [rows, cols] f32 matrix, row-major.
void unpackPanels(std::span<const float> panels, uint32_t rows, uint32_t cols, std::span<float> out);
void packPanels(std::span<const float> values, uint32_t rows, uint32_t cols, std::span<float> panels);

// A layer's device memory on the host: weights, or gradients, which have the same layout.
struct LayerMemory {
    std::vector<std::vector<float>> slabs;  // as Weights::slabs
    std::vector<float> router;              // panels and bias; of weights also the selection bias
    std::vector<float> shared_router;       // [model_dim], or empty
};
Result<LayerMemory> downloadWeights(Engine& engine, const Weights& weights);

// A layer's tensors in memory, f32 as `weights` are. `name` stands for the source in errors. Gradients have no
// selection bias.
formats::LayerSource readBack(const Weights& weights, const LayerMemory& memory, const std::string& name,
                              bool gradients);

}  // namespace v1
}  // namespace vkmoe
