#include "engine/models/trunk.h"

#include <fmt/format.h>

#include <algorithm>

#include "engine/formats/check_values.h"
#include "engine/formats/moe0.h"
#include "engine/moe/carver.h"
#include "engine/moe/page_layout.h"
#include "engine/train/read_back.h"
#include "host/transfer.h"
#include "shaders/exact_math.h"

namespace vkmoe {
inline namespace v1 {
namespace {

// Parameters of one layer's trunk, which come before its mixture's.
uint64_t layerTrunk(const LmConfig& c) { return uint64_t{c.model_dim} * (c.conv_kernel + 2); }

uint64_t mixtureCount(const LmConfig& c) {
    uint64_t D = c.model_dim, H = c.hidden_dim, E = c.experts;
    return E * D + (E + 1) * (2 * H * D + H + D);
}

// Where layer l's parameters begin.
uint64_t layerFirst(const LmConfig& c, uint32_t layer) {
    return uint64_t{c.vocab_size} * c.model_dim + layer * (layerTrunk(c) + mixtureCount(c));
}

}  // namespace

Trunk Trunk::layout(const LmConfig& config, uint64_t& bytes) {
    Trunk trunk;
    trunk.config = config;
    Carver carver;
    carver.words(trunk.embeddingWords());
    for (uint32_t l = 0; l < config.layers; ++l) {
        uint64_t conv = carver.words(uint64_t{config.model_dim} * config.conv_kernel);
        uint64_t norm_conv = carver.words(config.model_dim), norm_moe = carver.words(config.model_dim);
        trunk.layers.push_back({conv, norm_conv, norm_moe});
    }
    bytes = carver.bytes;
    return trunk;
}

Result<Trunk> Trunk::create(Engine& engine, const LmConfig& config, const Read& read) {
    uint64_t bytes = 0;
    Trunk trunk = layout(config, bytes);
    std::vector<float> words((bytes + 255) / 256 * 64);  // the whole buffer: an optimiser goes over all of it
    VKMOE_CHECK(trunk.pack(read, words));
    for (float& word : words) word = operand_rule(word);
    VKMOE_TRY(memory, upload(engine.device(), words, "embedding, convolutions and norms"));
    trunk.memory = std::move(memory);
    return trunk;
}

Result<Trunk> Trunk::create(Engine& engine, const LmConfig& config, std::span<const float> parameters) {
    return create(engine, config, [&](uint64_t first, std::span<float> into) {
        std::copy_n(parameters.begin() + ptrdiff_t(first), into.size(), into.begin());
        return Result<void>();
    });
}

Result<Trunk> Trunk::create(Engine& engine, const formats::LmSource& source) {
    std::vector<formats::TensorRange> own;
    for (const formats::TensorRange& tensor : source.tensors)
        if (tensor.name.find(".moe.") == std::string::npos) own.push_back(tensor);
    VKMOE_CHECK(formats::checkValues(*source.bytes, own));
    return create(engine, source.config,
                  [&](uint64_t first, std::span<float> into) { return formats::readParameters(source, first, into); });
}

uint64_t Trunk::embeddingWords() const { return packedWords(config.vocab_size, config.model_dim, WeightFormat::f32); }

void Trunk::unpack(std::span<const float> words, std::span<float> parameters) const {
    uint64_t D = config.model_dim;
    unpackPanels(words, config.vocab_size, config.model_dim, parameters.first(config.vocab_size * D));
    for (uint32_t l = 0; l < config.layers; ++l) {
        auto to = parameters.begin() + ptrdiff_t(layerFirst(config, l));
        to = std::copy_n(words.begin() + ptrdiff_t(layers[l].conv / 4), D * config.conv_kernel, to);
        to = std::copy_n(words.begin() + ptrdiff_t(layers[l].norm_conv / 4), D, to);
        std::copy_n(words.begin() + ptrdiff_t(layers[l].norm_moe / 4), D, to);
    }
}

Result<void> Trunk::pack(const Read& read, std::span<float> words) const {
    uint64_t D = config.model_dim;
    std::vector<float> embedding(config.vocab_size * D);
    VKMOE_CHECK(read(0, embedding));
    packPanels(embedding, config.vocab_size, config.model_dim, words.first(embeddingWords()));
    for (uint32_t l = 0; l < config.layers; ++l) {
        uint64_t first = layerFirst(config, l), taps = D * config.conv_kernel;
        VKMOE_CHECK(read(first, words.subspan(layers[l].conv / 4, taps)));
        VKMOE_CHECK(read(first + taps, words.subspan(layers[l].norm_conv / 4, D)));
        VKMOE_CHECK(read(first + taps + D, words.subspan(layers[l].norm_moe / 4, D)));
    }
    return {};
}

ParameterRange mixtureRange(const LmConfig& config, uint32_t layer) {
    return {layerFirst(config, layer) + layerTrunk(config), mixtureCount(config)};
}

Description mixtureDescription(const LmConfig& c) {
    return formats::describe({c.model_dim, c.hidden_dim, c.experts, c.top_k});
}

// A MoE0 file in memory: its parameters have the same order.
Result<formats::LayerSource> mixtureSource(const LmConfig& c, std::span<const float> parameters, uint32_t layer) {
    ParameterRange range = mixtureRange(c, layer);
    VKMOE_TRY(bytes, formats::writeMoe0({c.model_dim, c.hidden_dim, c.experts, c.top_k},
                                        parameters.subspan(range.first, range.count)));
    return formats::readMoe0(memorySource(fmt::format("layers.{}.moe", layer), std::move(bytes)));
}

// The mixture's parameters lie in the file in the order of MoE0.
formats::LayerSource mixtureInFile(const formats::LmSource& model, uint32_t layer) {
    const LmConfig& c = model.config;
    uint64_t first = mixtureRange(c, layer).first;
    auto source =
        formats::moe0Layer({c.model_dim, c.hidden_dim, c.experts, c.top_k}, model.bytes,
                           formats::kEvl0HeaderBytes + formats::formatBytes(model.format, first), model.format);
    auto own = std::find_if(model.tensors.begin(), model.tensors.end(), [&](const formats::TensorRange& tensor) {
        return tensor.name == fmt::format("layers.{}.moe.router.weight", layer);
    });
    for (formats::TensorRange& tensor : source.tensors) tensor.label = (own++)->name;
    return source;
}

}  // namespace v1
}  // namespace vkmoe
