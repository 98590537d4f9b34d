#include "engine/formats/tensor_source.h"

#include <algorithm>

namespace vkmoe::formats {

const TensorRange* LayerSource::find(const std::string& name) const {
    const auto found =
        std::find_if(tensors.begin(), tensors.end(), [&](const auto& tensor) { return tensor.name == name; });
    return found == tensors.end() ? nullptr : &*found;
}

}  // namespace vkmoe::formats
