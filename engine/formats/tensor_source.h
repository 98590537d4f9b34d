// TensorSource: named tensors as byte ranges of a file or of memory, what every format's reader produces.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "host/file.h"
#include "host/result.h"
#include "vkmoe/description.h"

namespace vkmoe::formats {

// One tensor, row-major. `name` is the layer file's name, e.g. "experts.up.weight" (experts consecutive).
struct TensorRange {
    std::string name;
    WeightFormat format = WeightFormat::f32;
    std::vector<uint64_t> shape;
    uint64_t offset = 0;  // bytes from the start of the file
    uint64_t bytes = 0;
};

// A MoE layer on disk: its description and where each tensor's bytes are. Routed experts may be scattered
// (MoE0 keeps an expert's tensors together), so a tensor of expert e is looked up by (role, e).
struct LayerSource {
    Description description;
    std::vector<TensorRange> tensors;   // "router.weight", "shared.up.weight", "experts.3.up.weight", ...
    std::vector<std::string> warnings;  // sentences for the user, e.g. what --compat let pass
    std::shared_ptr<const ByteSource> bytes;

    const TensorRange* find(const std::string& name) const;
};

}  // namespace vkmoe::formats
