#include "engine/formats/moe0_write.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "engine/formats/checked.h"
#include "engine/formats/fp16_truncate.h"
#include "engine/formats/moe0.h"

namespace vkmoe::formats {
namespace {

// In canonical order: the file's.
Result<std::vector<const TensorRange*>> orderedTensors(const LayerSource& layer) {
    std::vector<const TensorRange*> ordered;
    const auto add = [&](const std::string& name, const std::vector<uint64_t>& shape) -> Result<void> {
        const TensorRange* tensor = layer.find(name);
        if (tensor == nullptr) return inputError(layer.bytes->name(), fmt::format("tensor {} is missing", name));
        if (tensor->shape != shape)
            return Error{ErrorCode::bad_input, fmt::format("{} has shape {}, must have {}", layer.place(*tensor),
                                                           shapeText(tensor->shape), shapeText(shape))};
        if (tensor->format == WeightFormat::mxfp4)
            return Error{ErrorCode::unsupported,
                         fmt::format("{} is mxfp4, which MoE0 cannot hold", layer.place(*tensor))};
        ordered.push_back(tensor);
        return {};
    };
    const Description& d = layer.description;
    const uint64_t D = d.model_dim, F = d.hidden_dim;
    VKMOE_CHECK(add("router.weight", {d.experts, D}));
    for (uint64_t e = 0; e <= d.experts; ++e) {
        const std::string prefix = e == 0 ? "shared" : fmt::format("experts.{}", e - 1);
        VKMOE_CHECK(add(prefix + ".up.weight", {F, D}));
        VKMOE_CHECK(add(prefix + ".up.bias", {F}));
        VKMOE_CHECK(add(prefix + ".down.weight", {D, F}));
        VKMOE_CHECK(add(prefix + ".down.bias", {D}));
    }
    return ordered;
}

// Puts 16-bit values as f32, which holds every one of them.
ByteSink widening(WeightFormat format, const ByteSink& put) {
    return [format, &put](std::span<const std::byte> bytes) {
        std::vector<float> wide(bytes.size() / 2);
        for (size_t i = 0; i < wide.size(); ++i) {
            uint16_t bits = 0;
            std::memcpy(&bits, &bytes[2 * i], sizeof bits);
            wide[i] =
                format == WeightFormat::f16 ? fp16TruncateDecode(bits) : std::bit_cast<float>(uint32_t{bits} << 16);
        }
        return put(std::as_bytes(std::span(wide)));
    };
}

std::array<std::byte, kMoe0HeaderBytes> headerOf(const Description& d, bool fp16) {
    constexpr uint32_t kMagic = 0x4d6f4530;
    const uint32_t fields[] = {kMagic, fp16 ? 2u : 1u, d.model_dim, d.hidden_dim, d.experts, d.top_k};
    std::array<std::byte, kMoe0HeaderBytes> bytes = {};
    std::memcpy(bytes.data(), fields, sizeof fields);
    return bytes;
}

}  // namespace

Result<void> checkMoe0Can(const Description& d) {
    const auto check = [](const char* field, const auto& value, const auto& wanted) -> Result<void> {
        if (value == wanted) return {};
        return Error{ErrorCode::unsupported, fmt::format("{} is {}, in MoE0 it is {}", field, value, wanted)};
    };
    using std::string_view;
    VKMOE_CHECK(check("score", string_view(name(d.score)), string_view("softmax_selected")));
    VKMOE_CHECK(check("renormalize", d.renormalize, false));
    VKMOE_CHECK(check("routed_scale", d.routed_scale, 1.0f));
    VKMOE_CHECK(check("router_bias", d.router_bias, false));
    VKMOE_CHECK(check("selection_bias", d.selection_bias, false));
    VKMOE_CHECK(check("groups", d.groups, 1u));
    VKMOE_CHECK(check("dispatch", string_view(name(d.dispatch)), string_view("dropless")));
    VKMOE_CHECK(check("noise_std", d.noise_std, 0.0f));
    VKMOE_CHECK(check("activation", string_view(name(d.activation)), string_view("relu")));
    VKMOE_CHECK(check("experts.up.bias", d.up_bias, true));
    VKMOE_CHECK(check("experts.down.bias", d.down_bias, true));
    VKMOE_CHECK(check("shared", string_view(name(d.shared)), string_view("plain")));
    VKMOE_CHECK(check("shared_order", string_view(name(d.shared_order)), string_view("first")));
    VKMOE_CHECK(check("shared_dim", d.shared_dim, d.hidden_dim));
    VKMOE_CHECK(check("shared.up.bias", d.shared_up_bias, true));
    return check("shared.down.bias", d.shared_down_bias, true);
}

Result<void> writeMoe0File(const std::string& path, const LayerSource& layer) {
    const auto can = checkMoe0Can(layer.description);
    if (!can) return inFile(layer.bytes->name(), can.error());
    VKMOE_TRY(tensors, orderedTensors(layer));
    const bool fp16 = std::all_of(tensors.begin(), tensors.end(),
                                  [](const TensorRange* tensor) { return tensor->format == WeightFormat::f16; });
    return writeFileInPieces(path, [&](const ByteSink& put) -> Result<void> {
        VKMOE_CHECK(put(headerOf(layer.description, fp16)));
        for (const TensorRange* tensor : tensors) {
            const bool as_is = fp16 || tensor->format == WeightFormat::f32;
            VKMOE_CHECK(copyTensor(*layer.bytes, *tensor, as_is ? put : widening(tensor->format, put)));
        }
        return {};
    });
}

}  // namespace vkmoe::formats
