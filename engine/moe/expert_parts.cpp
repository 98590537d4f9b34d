#include "engine/moe/expert_parts.h"

#include <fmt/format.h>

namespace vkmoe {
inline namespace v1 {
namespace {

using formats::LayerSource;
using formats::TensorRange;

Result<const TensorRange*> require(const LayerSource& source, const std::string& name) {
    if (const TensorRange* tensor = source.find(name)) return tensor;
    return Error{ErrorCode::bad_input, fmt::format("{}: tensor {} is missing", source.bytes->name(), name)};
}

// Bytes of a matrix or vector in the file; rows of a fused matrix lie row_step apart.
uint64_t storedBytes(const TensorRange& tensor, const std::vector<uint64_t>& shape) {
    uint64_t cols = shape.back(), rows = shape.size() > 1 ? shape[0] : 1;
    uint64_t row = tensor.format == WeightFormat::f32     ? cols * 4
                   : tensor.format == WeightFormat::mxfp4 ? cols / 2
                                                          : cols * 2;
    return ((rows - 1) * tensor.row_step + 1) * row;
}

// A matrix of this shape in the format expert 0 has.
Result<const TensorRange*> requireAlike(const LayerSource& source, const std::string& name,
                                        const std::vector<uint64_t>& shape, WeightFormat format) {
    VKMOE_TRY(tensor, requireTensor(source, name, shape));
    if (tensor->format != format)
        return Error{ErrorCode::bad_input,
                     fmt::format("{}: tensor {} is {}, expert 0's is {}", source.bytes->name(), tensor->shown(),
                                 vkmoe::name(tensor->format), vkmoe::name(format))};
    return tensor;
}

}  // namespace

Result<const TensorRange*> requireTensor(const LayerSource& source, const std::string& name,
                                         const std::vector<uint64_t>& shape) {
    VKMOE_TRY(tensor, require(source, name));
    uint64_t bytes = tensor->shape == shape ? storedBytes(*tensor, shape) : 0;
    if (tensor->shape != shape || tensor->bytes != bytes || tensor->row_step == 0)
        return Error{
            ErrorCode::bad_input,
            fmt::format("{}: tensor {} has shape [{}] and {} bytes, must have shape [{}]", source.bytes->name(),
                        tensor->shown(), fmt::join(tensor->shape, ", "), tensor->bytes, fmt::join(shape, ", "))};
    if (tensor->format != WeightFormat::mxfp4) return tensor;
    uint64_t blocks = shape.back() / 32, rows = (shape[0] - 1) * tensor->row_step + 1;
    if (shape.size() != 2 || shape.back() % 32 != 0 || tensor->scales_bytes != rows * blocks)
        return Error{
            ErrorCode::bad_input,
            fmt::format("{}: tensor {} is mxfp4 of shape [{}] with {} bytes of scales: columns come in blocks of "
                        "32 with a scale each",
                        source.bytes->name(), tensor->shown(), fmt::join(shape, ", "), tensor->scales_bytes)};
    return tensor;
}

std::string expertPrefix(uint32_t expert) { return fmt::format("experts.{}", expert); }

Result<ExpertFormats> readFormats(const LayerSource& source, const std::string& prefix) {
    ExpertFormats formats;
    VKMOE_TRY(up, require(source, prefix + ".up.weight"));
    VKMOE_TRY(down, require(source, prefix + ".down.weight"));
    formats.gate = formats.up = up->format;
    formats.down = down->format;
    if (!source.description.gated()) return formats;
    VKMOE_TRY(gate, require(source, prefix + ".gate.weight"));
    formats.gate = gate->format;
    return formats;
}

Result<std::vector<PagePart>> expertParts(const LayerSource& source, const std::string& prefix,
                                          const ExpertFormats& formats, const ExpertShape& shape,
                                          const PageLayout& layout) {
    struct Matrix {
        const char* name;
        bool present;
        uint64_t rows, cols;
        WeightFormat stored, packed;
        uint32_t at;
    };
    struct Vector {
        const char* name;
        bool present;
        uint64_t size;
        uint32_t at;
    };
    const uint64_t D = shape.model_dim, F = shape.hidden_dim;
    const Matrix matrices[] = {{".gate.weight", shape.gated, F, D, formats.gate, shape.up_format, layout.gate_weight},
                               {".up.weight", true, F, D, formats.up, shape.up_format, layout.up_weight},
                               {".down.weight", true, D, F, formats.down, shape.down_format, layout.down_weight}};
    const Vector vectors[] = {{".gate.bias", shape.gate_bias, F, layout.gate_bias},
                              {".up.bias", shape.up_bias, F, layout.up_bias},
                              {".down.bias", shape.down_bias, D, layout.down_bias}};
    std::vector<PagePart> parts;
    for (const Matrix& m : matrices) {
        if (!m.present) continue;
        VKMOE_TRY(tensor, requireAlike(source, prefix + m.name, {m.rows, m.cols}, m.stored));
        parts.push_back({tensor, m.at, true, m.packed != m.stored});
    }
    for (const Vector& v : vectors) {
        if (!v.present) continue;
        VKMOE_TRY(tensor, requireTensor(source, prefix + v.name, {v.size}));
        parts.push_back({tensor, v.at, false, false});
    }
    return parts;
}

}  // namespace v1
}  // namespace vkmoe
