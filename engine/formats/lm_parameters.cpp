#include "engine/formats/lm_parameters.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <new>
#include <stdexcept>

#include "engine/formats/check_values.h"
#include "engine/formats/evl0.h"
#include "engine/formats/fp16_truncate.h"
#include "engine/formats/moe0.h"
#include "host/cpu/float_environment.h"

namespace vkmoe::formats {
namespace {

template <class Number>
Result<std::vector<Number>> zeros(uint64_t count, uint64_t more) try {
    std::vector<Number> numbers;
    numbers.reserve(count + more);
    numbers.resize(count);
    return numbers;
} catch (const std::bad_alloc&) {
    return Error{ErrorCode::out_of_memory, fmt::format("no memory for {} bytes", count * sizeof(Number))};
} catch (const std::length_error&) {
    return Error{ErrorCode::out_of_memory, fmt::format("no memory for {} numbers", count)};
}

// The reference engine draws a new layer's experts from a generator of their own.
uint32_t layerSeed(uint32_t seed, uint32_t layer) { return seed + 1 + layer; }

Result<void> fillExperts(const LmConfig& config, uint32_t seed, std::span<float> into) {
    VKMOE_TRY(file, initMoe0({config.model_dim, config.hidden_dim, config.experts, config.top_k}, seed));
    std::memcpy(into.data(), &file[kMoe0HeaderBytes], file.size() - kMoe0HeaderBytes);
    return {};
}

}  // namespace

Result<std::vector<std::byte>> zeroBytes(uint64_t count, uint64_t more) { return zeros<std::byte>(count, more); }
Result<std::vector<float>> zeroFloats(uint64_t count) { return zeros<float>(count, 0); }

Result<std::vector<float>> readParameters(const LmSource& model) {
    VKMOE_CHECK(checkValues(*model.bytes, model.tensors));
    VKMOE_TRY(parameters, zeroFloats(parameterCount(model.config)));
    VKMOE_CHECK(readParameters(model, 0, parameters));
    return parameters;
}

Result<void> readParameters(const LmSource& model, uint64_t first, std::span<float> into) {
    uint64_t from = kEvl0HeaderBytes + formatBytes(model.format, first);
    if (model.format == WeightFormat::f32) return model.bytes->read(from, std::as_writable_bytes(into));
    std::array<uint16_t, 8192> piece;
    while (!into.empty()) {
        auto some = std::span(piece).first(std::min(piece.size(), into.size()));
        VKMOE_CHECK(model.bytes->read(from, std::as_writable_bytes(some)));
        std::transform(some.begin(), some.end(), into.begin(), fp16TruncateDecode);
        from += some.size_bytes();
        into = into.subspan(some.size());
    }
    return {};
}

Result<std::vector<float>> initialLm(const LmConfig& config, std::optional<uint32_t> seed) {
    VKMOE_CHECK(validate(config));
    VKMOE_TRY(parameters, zeroFloats(parameterCount(config)));
    FloatEnvironment environment;  // the samples are rounded to nearest, whatever the program around us set
    SeededRng rng(seed.value_or(kLmDefaultSeed));
    const uint32_t first_state = rng.state();  // of seed 0 it is 1, for the layers too
    const uint64_t D = config.model_dim;
    auto at = parameters.begin();
    for (const auto end = at + ptrdiff_t(config.vocab_size * D); at != end; ++at) *at = float(rng.normal(0.02));
    const ptrdiff_t layer = (parameters.end() - at) / std::max(config.layers, 1u);
    for (uint32_t l = 0; l < config.layers; ++l, at += layer) {
        for (uint64_t c = 0; config.conv_kernel != 0 && c < D; ++c)
            at[ptrdiff_t(c * config.conv_kernel)] = 1;  // each channel's own position
        const auto norms = at + ptrdiff_t(D * config.conv_kernel);
        std::fill(norms, norms + ptrdiff_t(2 * D), 1.0f);
        VKMOE_CHECK(fillExperts(config, layerSeed(first_state, l), {norms + ptrdiff_t(2 * D), at + layer}));
    }
    return parameters;
}

}  // namespace vkmoe::formats
