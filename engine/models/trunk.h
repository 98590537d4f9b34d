// Trunk: a language model's parameters outside its mixtures of experts, in one device buffer: the embedding in f32
// panels, and of each layer the convolution's taps and the gains of its two norms.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "engine/formats/evl0.h"
#include "vkmoe/engine.h"

namespace vkmoe {
inline namespace v1 {

struct Trunk {
    struct Layer {
        uint64_t conv, norm_conv, norm_moe;  // byte offsets into `memory`
    };

    LmConfig config;
    Buffer memory;  // the embedding first
    std::vector<Layer> layers;

    // Its layout without memory; `bytes` is what memory it needs.
    static Trunk layout(const LmConfig& config, uint64_t& bytes);
    // Reads parameters from number `first` of the canonical order on.
    using Read = std::function<Result<void>(uint64_t first, std::span<float> into)>;
    // Weights follow the operand rule.
    static Result<Trunk> create(Engine& engine, const LmConfig& config, const Read& read);
    static Result<Trunk> create(Engine& engine, const LmConfig& config, std::span<const float> parameters);
    // The same from a file, without reading its mixtures. Errors: bad_input for values that are not finite.
    static Result<Trunk> create(Engine& engine, const formats::LmSource& source);

    uint64_t embeddingWords() const;

    // From memory's words (its own, or gradients or moments of its layout) to the canonical order. Only the trunk's
    // places of `parameters` are touched.
    void unpack(std::span<const float> words, std::span<float> parameters) const;

private:
    Result<void> pack(const Read& read, std::span<float> words) const;
};

// What every layer's mixture of experts is, also where there is no layer.
Description mixtureDescription(const LmConfig& config);

// Layer l's mixture of experts as a source of its own, a copy of its parameters.
Result<formats::LayerSource> mixtureSource(const LmConfig& config, std::span<const float> parameters, uint32_t layer);

// The same as ranges of the model's file.
formats::LayerSource mixtureInFile(const formats::LmSource& model, uint32_t layer);

// The range of layer l's mixture among all parameters.
struct ParameterRange {
    uint64_t first = 0, count = 0;
};
ParameterRange mixtureRange(const LmConfig& config, uint32_t layer);

}  // namespace v1
}  // namespace vkmoe
