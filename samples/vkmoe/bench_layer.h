// A layer to time: any size and weight format, its weights made up as they are read.
#pragma once

#include "engine/formats/tensor_source.h"
#include "samples/vkmoe/commands.h"

namespace vkmoe::program {

// Softmax, renormalised, silu_glu, no shared expert; weights small and finite.
formats::LayerSource benchLayer(const BenchOptions& options, WeightFormat format);

}  // namespace vkmoe::program
