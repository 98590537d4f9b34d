// EVL0: the reference engine's checkpoint of a language model, read, written and initialised.
//
// A file is a header of nine little-endian u32 (magic 0x45564c30; version 1 for float32, 2 for float16; vocabSize,
// dModel, numLayers, convKernel, hiddenDim, numExperts, topK), the parameters in canonical order (lm_config.h) without
// padding, and the trailer of crc_trailer.h. Float16 data are converted as fp16_truncate.h says.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/formats/tensor_source.h"
#include "host/file.h"
#include "host/result.h"
#include "vkmoe/lm_config.h"

namespace vkmoe::formats {

inline constexpr uint64_t kEvl0HeaderBytes = 36;
inline constexpr uint32_t kLmDefaultSeed = 0x45564c4d;

// A language model on disk.
struct LmSource {
    LmConfig config;                          // valid
    WeightFormat format = WeightFormat::f32;  // of every tensor: f32 or f16
    std::vector<TensorRange> tensors;         // those of lmTensors(config), in that order, as ranges of `bytes`
    std::vector<std::string> warnings;        // what compat let pass
    std::shared_ptr<const ByteSource> bytes;
};

struct Evl0Options {
    // Accept what the reference engine accepts, each with a warning: no trailer, an unknown version (read as float32),
    // bytes after the parameters, and a float32 file that ends early, after whole numbers; it is completed with the
    // parameters of a cold start (default seed). A trailer with a wrong checksum stays an error.
    bool compat = false;
    uint64_t max_completed_bytes = uint64_t{16} << 20;
};

// Whether a file that starts with these bytes (4 suffice) is meant to be EVL0.
bool looksLikeEvl0(std::span<const std::byte> first_bytes);

// Checks the header, the exact length and the checksum; parameters are not looked at (checkValues does that).
Result<LmSource> readEvl0(std::shared_ptr<const ByteSource> file, Evl0Options options = {});

// All parameters in canonical order. One that is not finite, or not below 2^63 in size, is an error that names tensor,
// row and column.
Result<std::vector<float>> readParameters(const LmSource& model);

// Some of them, from parameter `first` on, whatever they are.
Result<void> readParameters(const LmSource& model, uint64_t first, std::span<float> into);

// A file's bytes. `parameters` are in canonical order, as many as the config says.
Result<std::vector<std::byte>> writeEvl0(const LmConfig& config, std::span<const float> parameters, bool fp16 = false);

// The parameters of a cold start, bit for bit those of the reference engine. For a seed that is no uint32 use toUint32
// of moe0.h. A hidden_dim of 0 stays an error: complete the config first.
Result<std::vector<float>> initialLm(const LmConfig& config, std::optional<uint32_t> seed = {});

}  // namespace vkmoe::formats
