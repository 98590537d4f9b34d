#include "samples/vkmoe/random_stack.h"

#include <fmt/format.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "engine/formats/checked.h"
#include "engine/formats/description_json.h"
#include "engine/formats/layer_file.h"
#include "engine/formats/layer_tensors.h"
#include "shaders/exact_math.h"

namespace vkmoe::program {
namespace {

using formats::TensorRole;

constexpr TensorRole kRoles[] = {TensorRole::router_weight, TensorRole::gate_weight, TensorRole::up_weight,
                                 TensorRole::down_weight};
constexpr size_t kPiece = 1 << 18;  // values, a multiple of 4

// SplitMix64's finaliser: a draw depends on its place alone.
uint64_t mixed(uint64_t z) {
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
    return z ^ (z >> 31);
}

std::vector<uint64_t> shapeOf(TensorRole role, const Description& d) {
    std::vector<uint64_t> shape = formats::valueShape(role, d);
    if (formats::shapeOf(role).routed) shape.insert(shape.begin(), d.experts);
    return shape;
}

// Largest value. Columns times its square over 3 is the variance of a product with values of variance 1: 1 for logits
// and hidden values, and 1/16 on the way back, so that a layer changes its input a little.
float scaleOf(TensorRole role, const Description& d) {
    return role == TensorRole::down_weight ? std::sqrt(3.0f / float(d.hidden_dim)) / 4
                                           : std::sqrt(3.0f / float(d.model_dim));
}

// The 65,536 values that a tensor has, encoded.
template <class Word>
std::vector<Word> valueTable(WeightFormat format, float scale) {
    std::vector<Word> table(65536);
    for (uint32_t i = 0; i < table.size(); ++i) {
        float value = (float(i) - 32767.5f) * 0x1p-15f * scale;
        uint32_t word = format == WeightFormat::f16    ? f16_encode(value)
                        : format == WeightFormat::bf16 ? bf16_encode(value)
                                                       : floatBitsToUint(value);
        table[i] = static_cast<Word>(word);
    }
    return table;
}

template <class Word>
Result<void> fill(const std::vector<Word>& table, uint64_t key, uint64_t count, const ByteSink& put) {
    std::vector<Word> piece(kPiece + 3);
    for (uint64_t first = 0; first < count; first += kPiece) {
        size_t values = size_t(std::min<uint64_t>(kPiece, count - first));
        for (size_t i = 0; i < values; i += 4) {
            uint64_t bits = mixed(key + (first + i) / 4 * 0x9E3779B97F4A7C15);
            for (size_t n = 0; n < 4; ++n) piece[i + n] = table[bits >> 16 * n & 0xffff];
        }
        VKMOE_CHECK(put(std::as_bytes(std::span(piece).first(values))));
    }
    return {};
}

formats::TensorToWrite tensor(const RandomStack& stack, uint32_t layer, TensorRole role, const ByteSink& counted) {
    std::vector<uint64_t> shape = shapeOf(role, stack.description);
    uint64_t key = mixed((uint64_t{stack.seed} << 32) + layer * formats::kTensorRoles + uint32_t(role));
    uint64_t count = *formats::checkedProduct(shape);
    float scale = scaleOf(role, stack.description);
    WeightFormat format = stack.format;
    const char* dtype = format == WeightFormat::f16 ? "F16" : format == WeightFormat::bf16 ? "BF16" : "F32";
    auto values = [=, &counted](const ByteSink& put) -> Result<void> {
        const ByteSink both = [&](std::span<const std::byte> bytes) -> Result<void> {
            VKMOE_CHECK(put(bytes));
            return counted(bytes);
        };
        return format == WeightFormat::f32 ? fill(valueTable<uint32_t>(format, scale), key, count, both)
                                           : fill(valueTable<uint16_t>(format, scale), key, count, both);
    };
    return {fmt::format("layers.{}.{}", layer, formats::shapeOf(role).name()), dtype, std::move(shape), values};
}

}  // namespace

Result<uint64_t> parameterCount(const RandomStack& stack) {
    const Description& d = stack.description;
    VKMOE_CHECK(validate(d));
    if (stack.layers == 0 || stack.layers > formats::kMaxLayers)
        return Error{ErrorCode::bad_input,
                     fmt::format("layers is {}, must be 1 to {}", stack.layers, formats::kMaxLayers)};
    if (uint64_t{stack.layers} * d.experts * 3 > formats::kMaxExpertTensors)
        return Error{ErrorCode::bad_input, fmt::format("experts: {} layers of {} experts have more than {} matrices",
                                                       stack.layers, d.experts, formats::kMaxExpertTensors)};
    uint64_t all = 0;
    for (TensorRole role : kRoles) {
        auto count = formats::checkedProduct(shapeOf(role, d));
        auto of_layers = count ? formats::checkedMul(*count, uint64_t{stack.layers} * 32) : count;
        auto sum = of_layers ? formats::checkedAdd(all, *of_layers / 32) : of_layers;
        if (!sum || *sum > uint64_t{1} << 48)
            return Error{ErrorCode::bad_input, fmt::format("{}: {} layers have more than 2^48 values",
                                                           formats::shapeOf(role).name(), stack.layers)};
        all = *sum;
    }
    return all;
}

Result<void> writeRandomStack(const std::string& path, const RandomStack& stack,
                              const std::function<void(uint64_t)>& progress) {
    uint64_t done = 0, value_bytes = stack.format == WeightFormat::f32 ? 4 : 2;
    const ByteSink counted = [&](std::span<const std::byte> bytes) -> Result<void> {
        progress(done += bytes.size() / value_bytes);
        return {};
    };
    std::vector<formats::TensorToWrite> tensors;
    for (uint32_t layer = 0; layer < stack.layers; ++layer)
        for (TensorRole role : kRoles) tensors.push_back(tensor(stack, layer, role, counted));
    const std::vector<Description> descriptions(stack.layers, stack.description);
    return formats::writeSafetensors(path, tensors,
                                     {{formats::kDescriptionKey, formats::descriptionToJson(descriptions)}});
}

}  // namespace vkmoe::program
