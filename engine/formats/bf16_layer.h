// A layer whose experts' matrices are rounded to bf16 as they are read: what rounded precision multiplies by.
#pragma once

#include "engine/formats/tensor_source.h"

namespace vkmoe::formats {

// Of a layer whose matrices are f32 or f16. Rounded to nearest even, then +0 below 2^-56 (the operand rule of bf16), as
// round_panels does; biases, gates and the router stay as they are.
LayerSource asBf16(LayerSource layer);

}  // namespace vkmoe::formats
