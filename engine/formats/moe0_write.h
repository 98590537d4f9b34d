// Writing a layer of any source as a MoE0 file.
#pragma once

#include <string>

#include "engine/formats/tensor_source.h"

namespace vkmoe::formats {

// Whether MoE0 can say what this layer is: softmax_selected, relu, a plain shared expert of the routed ones' width that
// comes first, biases of up and down, nothing else. The error (unsupported) names the field and its value.
Result<void> checkMoe0Can(const Description& description);

// Float16 tensors stay as they are if all are; any other mixture of f32, f16 and bf16 is written as float32, which
// holds their values. Errors: unsupported for what MoE0 cannot say or hold (mxfp4); bad_input for a missing tensor.
Result<void> writeMoe0File(const std::string& path, const LayerSource& layer);

}  // namespace vkmoe::formats
