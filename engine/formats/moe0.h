// MoE0: the reference engine's checkpoint of one mixture-of-experts layer, read, written and initialised.
//
// A file is a header of six little-endian u32 (magic 0x4d6f4530; version 1 for float32, 2 for float16; modelDim D,
// hiddenDim F, numExperts E, topK) and the parameters, without padding, checksum or trailer:
//
//     router.weight [E,D]
//     shared.up.weight [F,D]  shared.up.bias [F]  shared.down.weight [D,F]  shared.down.bias [D]
//     the same four of experts.0, experts.1, ... experts.E-1
//
// This is the canonical order of parameters. There are P = E*D + (E+1)*(2*F*D + F + D) of them, and the length is
// exactly 24 + 4P or 24 + 2P bytes. Float16 data are converted as fp16_truncate.h says.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "engine/formats/tensor_source.h"
#include "host/file.h"
#include "host/result.h"

namespace vkmoe::formats {

inline constexpr uint64_t kMoe0HeaderBytes = 24;
inline constexpr uint32_t kMoe0DefaultSeed = 0x4d6f4501;
inline constexpr uint32_t kMoe0MaxExperts = 65536;                 // that readMoe0 lists tensors for
inline constexpr uint64_t kMoe0MaxParameters = uint64_t{1} << 34;  // that initMoe0 and writeMoe0 hold in memory

struct Moe0Config {
    uint32_t model_dim = 64;
    uint32_t hidden_dim = 128;
    uint32_t experts = 8;
    uint32_t top_k = 2;
};

struct Moe0Options {
    // Accept what the reference engine accepts, each with a warning: an unknown version is read as float32, bytes after
    // the parameters are ignored, and a float32 file that ends early, after whole numbers, is completed with the
    // parameters of a cold start (default seed), which is what a reference model of these dimensions would keep.
    bool compat = false;
    uint64_t max_completed_bytes = uint64_t{16} << 20;  // the most that may be missing; a short file can claim any size
};

// Whether a file that starts with these bytes (4 suffice) is meant to be MoE0.
bool looksLikeMoe0(std::span<const std::byte> first_bytes);

// P, or an error that names the field: a dimension or topK of 0, topK above numExperts, more than 64 bits can count.
Result<uint64_t> moe0ParameterCount(const Moe0Config& config);

// Checks the header and the exact length before anything of their size is allocated, and reads no parameter. The
// tensors are ranges of `file`, unless compat completed it: then of a copy in memory, as LayerSource::bytes tells.
Result<LayerSource> readMoe0(std::shared_ptr<const ByteSource> file, Moe0Options options = {});

// What such a layer is. For a valid config.
Description describe(const Moe0Config& config);

// The layer whose parameters lie in canonical order in `bytes`, from byte `offset` on, in f32 or f16. For a valid
// config.
LayerSource moe0Layer(const Moe0Config& config, std::shared_ptr<const ByteSource> bytes, uint64_t offset,
                      WeightFormat format);

// A file's bytes. `parameters` are the P numbers in canonical order.
Result<std::vector<std::byte>> writeMoe0(const Moe0Config& config, std::span<const float> parameters,
                                         bool fp16 = false);

// The bytes of a cold start, equal to the file the reference engine writes of a new model: weights are normal samples,
// biases zero. For a seed that is no uint32 use toUint32.
Result<std::vector<std::byte>> initMoe0(const Moe0Config& config, std::optional<uint32_t> seed = {}, bool fp16 = false);

// JavaScript's ToUint32, the reference engine's reading of a seed: truncates, then reduces modulo 2^32; NaN and the
// infinities give 0. So -1 is 0xffffffff and 2^32 + 5 is 5.
uint32_t toUint32(double number);

// The reference engine's random numbers: a linear congruence of 32 bits. Seed 0 means 1.
class SeededRng {
public:
    explicit SeededRng(uint32_t seed) : state_(seed == 0 ? 1 : seed) {}

    uint32_t state() const { return state_; }
    double uniform();                 // in [0, 1)
    double normal(double deviation);  // two draws a sample, nothing kept; the reference rounds it to float

private:
    uint32_t state_;
};

}  // namespace vkmoe::formats
