#include "engine/formats/layer_reader.h"

#include <fmt/format.h>

#include <algorithm>

#include "engine/formats/checked.h"
#include "engine/formats/layer_file.h"

namespace vkmoe::formats {
namespace {

std::string dtypeText(std::string_view dtype) { return dtype.empty() ? "of no dtype (\"\")" : shown(dtype); }

// Reads one layer's description and tensors out of the files' list.
class LayerReader {
public:
    LayerReader(const SafetensorsFiles& files, const LayerParts& parts, std::string prefix)
        : files_(files), parts_(parts), prefix_(std::move(prefix)) {}

    Result<LayerSource> read(const DescriptionFields& fields, uint64_t& allowed) {
        VKMOE_CHECK(describe(fields));
        if (expertTensors() > allowed)
            return inputError(source(), fmt::format("experts have more than {} tensors", kMaxExpertTensors));
        allowed -= expertTensors();
        VKMOE_CHECK(checkAgreement(fields));
        layer_.description = description_;
        layer_.bytes = files_.bytes();
        for (const TensorRole role : allRoles()) VKMOE_CHECK(addRole(role));
        return std::move(layer_);
    }

private:
    const Found& part(TensorRole role) const { return parts_[size_t(role)]; }
    bool has(TensorRole role) const { return part(role).any(); }
    const std::string& source() const { return files_.bytes()->name(); }
    std::string roleName(TensorRole role) const { return prefix_ + shapeOf(role).name(); }

    Error error(size_t tensor, const std::string& detail) const {
        return inputError(files_.fileOf(tensor), fmt::format("tensor {} {}", files_.at(tensor).name, detail));
    }
    uint64_t expertTensors() const {
        uint64_t tensors = 0;
        for (const TensorRole role : allRoles()) tensors += shapeOf(role).routed && has(role);
        return tensors * description_.experts;
    }

    // The dimension `axis` of a weight (before blocks of 32 where it is MXFP4) that other tensors are measured by.
    Result<uint32_t> dimension(TensorRole role, size_t axis, size_t rank) const {
        const Found& found = part(role);
        if (!found.any()) return inputError(source(), fmt::format("tensor {} is missing", roleName(role)));
        const size_t tensor = found.first();
        const auto shape = files_.at(tensor).shape;
        const size_t wanted = rank + (found.weight ? 0 : found.blocks ? 1 : 0);
        if (shape.size() != wanted)
            return error(tensor, fmt::format("has shape {}, must have {} dimensions", shapeText(shape), wanted));
        if (shape[axis] > UINT32_MAX) return error(tensor, fmt::format("has shape {}, too large", shapeText(shape)));
        return static_cast<uint32_t>(shape[axis]);
    }

    Result<void> describe(const DescriptionFields& fields) {
        Description& d = description_;
        d = fields.description;
        if (!fields.has_top_k)
            return inputError(source(), fmt::format("{}: {}top_k is missing", kDescriptionKey, prefix_));
        VKMOE_TRY(experts, dimension(TensorRole::router_weight, 0, 2));
        VKMOE_TRY(model_dim, dimension(TensorRole::router_weight, 1, 2));
        VKMOE_TRY(hidden_dim, dimension(TensorRole::up_weight, 1, 3));
        d.experts = experts;
        d.model_dim = model_dim;
        d.hidden_dim = hidden_dim;
        d.router_bias = has(TensorRole::router_bias);
        d.selection_bias = has(TensorRole::selection_bias);
        d.gate_bias = has(TensorRole::gate_bias);
        d.up_bias = has(TensorRole::up_bias);
        d.down_bias = has(TensorRole::down_bias);
        VKMOE_CHECK(describeShared());
        const auto valid = validate(d);
        return valid ? Result<void>() : inFile(source() + (prefix_.empty() ? "" : ": " + layerName()), valid.error());
    }
    Result<void> describeShared() {
        Description& d = description_;
        for (const TensorRole role : allRoles())
            if (std::string_view(shapeOf(role).group) == "shared" && has(role)) d.shared = Shared::plain;
        if (d.shared == Shared::none) return {};
        if (has(TensorRole::shared_router_weight)) d.shared = Shared::sigmoid_gated;
        VKMOE_TRY(shared_dim, dimension(TensorRole::shared_up_weight, 0, 2));
        d.shared_dim = shared_dim;
        d.shared_gate_bias = has(TensorRole::shared_gate_bias);
        d.shared_up_bias = has(TensorRole::shared_up_bias);
        d.shared_down_bias = has(TensorRole::shared_down_bias);
        return {};
    }
    std::string layerName() const { return prefix_.substr(0, prefix_.size() - 1); }

    Result<void> checkAgreement(const DescriptionFields& fields) const {
        using enum TensorRole;
        const auto check = [&](const char* field, const std::optional<bool>& says, TensorRole role) -> Result<void> {
            if (!says || *says == has(role)) return {};
            return inputError(source(), fmt::format("{}: {}{} is {}, but there is {} tensor {}", kDescriptionKey,
                                                    prefix_, field, *says, has(role) ? "a" : "no", roleName(role)));
        };
        VKMOE_CHECK(check("router_bias", fields.router_bias, router_bias));
        VKMOE_CHECK(check("selection_bias", fields.selection_bias, selection_bias));
        VKMOE_CHECK(check("biases", fields.biases, has(gate_bias) ? gate_bias : has(down_bias) ? down_bias : up_bias));
        if (fields.shared_dim && *fields.shared_dim != description_.shared_dim)
            return inputError(
                source(),
                fmt::format("{}: {}shared_dim is {}, but {}", kDescriptionKey, prefix_, *fields.shared_dim,
                            description_.shared == Shared::none
                                ? "there is no shared expert"
                                : fmt::format("the shared expert's tensors have {}", description_.shared_dim)));
        if (!fields.shared || *fields.shared == description_.shared) return {};
        const bool gated = description_.shared == Shared::sigmoid_gated;
        const bool any = description_.shared != Shared::none && *fields.shared == Shared::none;
        const TensorRole telling = any || description_.shared == Shared::none ? TensorRole::shared_up_weight
                                                                              : TensorRole::shared_router_weight;
        return inputError(source(),
                          fmt::format("{}: {}shared is {}, but there is {} tensor {}", kDescriptionKey, prefix_,
                                      vkmoe::name(*fields.shared), any || gated ? "a" : "no", roleName(telling)));
    }

    Result<void> addRole(TensorRole role) {
        const Found& found = part(role);
        if (!isPresent(role, description_)) {
            if (!found.any()) return {};
            return error(found.first(), fmt::format("has no place in a layer whose activation is {}",
                                                    vkmoe::name(description_.activation)));
        }
        if (!found.any()) return inputError(source(), fmt::format("tensor {} is missing", roleName(role)));
        return found.weight && !found.blocks && !found.scales ? addPlain(role) : addMxfp4(role);
    }

    Result<void> checkShape(size_t tensor, const std::vector<uint64_t>& wanted) const {
        const auto shape = files_.at(tensor).shape;
        if (std::equal(shape.begin(), shape.end(), wanted.begin(), wanted.end())) return {};
        return error(tensor, fmt::format("has shape {}, must have {}", shapeText(shape), shapeText(wanted)));
    }
    std::vector<uint64_t> stacked(TensorRole role, std::vector<uint64_t> shape) const {
        if (shapeOf(role).routed) shape.insert(shape.begin(), description_.experts);
        return shape;
    }

    Result<void> addPlain(TensorRole role) {
        const size_t number = *part(role).weight;
        const SafetensorsTensor tensor = files_.at(number);
        TensorRange range;
        if (tensor.dtype == "F32")
            range.format = WeightFormat::f32;
        else if (tensor.dtype == "F16")
            range.format = WeightFormat::f16;
        else if (tensor.dtype == "BF16")
            range.format = WeightFormat::bf16;
        else
            return error(number, fmt::format("is {}, must be F32, F16 or BF16", dtypeText(tensor.dtype)));
        range.shape = valueShape(role, description_);
        VKMOE_CHECK(checkShape(number, stacked(role, range.shape)));
        range.offset = tensor.offset;
        range.bytes = tensor.bytes / experts(role);
        addRanges(role, range, tensor.name);
        return {};
    }

    // A number of columns that is no multiple of 32 cannot match the shape of any blocks.
    Result<void> addMxfp4(TensorRole role) {
        const Found& found = part(role);
        const std::string name = prefix_ + shapeOf(role).stem();
        if (found.weight)
            return error(*found.weight, fmt::format("is beside {}.blocks or .scales, must be alone", name));
        if (!found.blocks || !found.scales)
            return error(found.first(),
                         fmt::format("is there, but not {}{}", name, found.blocks ? ".scales" : ".blocks"));
        for (const size_t number : {*found.blocks, *found.scales})
            if (const auto dtype = files_.at(number).dtype; dtype != "U8")
                return error(number, fmt::format("is {}, must be U8", dtypeText(dtype)));
        TensorRange range{.format = WeightFormat::mxfp4, .shape = valueShape(role, description_)};
        const uint64_t rows = range.shape[0], cols = range.shape[1];
        if (cols % 32 != 0)
            return error(*found.blocks, fmt::format("has rows of {} values, must be a multiple of 32", cols));
        VKMOE_CHECK(checkShape(*found.blocks, stacked(role, {rows, cols / 32, 16})));
        VKMOE_CHECK(checkShape(*found.scales, stacked(role, {rows, cols / 32})));
        const SafetensorsTensor blocks = files_.at(*found.blocks), scales = files_.at(*found.scales);
        range.offset = blocks.offset;
        range.bytes = blocks.bytes / experts(role);
        range.scales_offset = scales.offset;
        range.scales_bytes = scales.bytes / experts(role);
        addRanges(role, range, blocks.name);
        return {};
    }

    uint64_t experts(TensorRole role) const { return shapeOf(role).routed ? description_.experts : 1; }

    // One range for each expert, or one.
    void addRanges(TensorRole role, TensorRange range, std::string_view label) {
        const RoleShape& shape = shapeOf(role);
        range.name = shape.name();
        range.label = label;
        if (!shape.routed) return layer_.tensors.push_back(std::move(range));
        for (uint32_t e = 0; e < description_.experts; ++e) {
            range.name = shape.expertName(e);
            range.label = fmt::format("{}[{}]", label, e);
            layer_.tensors.push_back(range);
            range.offset += range.bytes;
            range.scales_offset += range.scales_bytes;
        }
    }

    const SafetensorsFiles& files_;
    const LayerParts& parts_;
    std::string prefix_;
    Description description_;
    LayerSource layer_;
};

}  // namespace

Result<LayerSource> readLayer(const SafetensorsFiles& files, const LayerParts& parts, const std::string& prefix,
                              const DescriptionFields& fields, uint64_t& allowed) {
    return LayerReader(files, parts, prefix).read(fields, allowed);
}

}  // namespace vkmoe::formats
