// Which tensors of a file make up an expert's page, and where they lie in it.
#pragma once

#include <string>
#include <vector>

#include "engine/formats/tensor_source.h"
#include "engine/moe/page_layout.h"

namespace vkmoe {
inline namespace v1 {

// What an expert's matrices are in the file. Gate and up meet the same operands, so if they differ both become f32.
struct ExpertFormats {
    WeightFormat gate = WeightFormat::f32, up = WeightFormat::f32, down = WeightFormat::f32;
    WeightFormat packedUp() const { return gate == up ? up : WeightFormat::f32; }
};

// Those of the expert whose tensors begin with this ("experts.0", "shared"). Errors: a tensor is missing.
Result<ExpertFormats> readFormats(const formats::LayerSource& source, const std::string& prefix);

std::string expertPrefix(uint32_t expert);  // "experts.7"

// A tensor of a page: a matrix in panels, f32 ones with `widen`, or a vector as f32 under the state rule.
struct PagePart {
    const formats::TensorRange* tensor;
    uint32_t at;  // words from the page's start
    bool is_matrix, widen;
};

// In the order of the page. Every tensor is there and has its shape; matrices are in `formats`, all experts alike.
Result<std::vector<PagePart>> expertParts(const formats::LayerSource& source, const std::string& prefix,
                                          const ExpertFormats& formats, const ExpertShape& shape,
                                          const PageLayout& layout);

// A tensor of this shape, with as many bytes as that says: kernels trust them.
Result<const formats::TensorRange*> requireTensor(const formats::LayerSource& source, const std::string& name,
                                                  const std::vector<uint64_t>& shape);

}  // namespace v1
}  // namespace vkmoe
