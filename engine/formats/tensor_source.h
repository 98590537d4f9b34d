// TensorSource: named tensors as byte ranges of a file or of memory, what every format's reader produces.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "host/file.h"
#include "host/result.h"
#include "vkmoe/description.h"

namespace vkmoe::formats {

// Which two elements of a block of 32 share byte j of MXFP4 codes (low nibble, high nibble).
enum class Nibbles : uint32_t {
    adjacent = 0,  // 2j, 2j+1: gpt-oss checkpoints and layer files
    halves = 1,    // j, j+16: ggml
};

// One tensor, row-major.
struct TensorRange {
    std::string name;  // the role, e.g. "router.weight", "experts.3.up.weight"
    WeightFormat format = WeightFormat::f32;
    std::vector<uint64_t> shape;                   // of the values: [rows, cols] of a matrix, [n] of a vector
    uint64_t offset = 0;                           // bytes from the start of the source
    uint64_t bytes = 0;                            // mxfp4: of the codes, 16 bytes a block of 32 columns
    std::string label = {};                        // how the file calls it, e.g. "experts.up.weight[3]"; empty: `name`
    uint64_t scales_offset = 0, scales_bytes = 0;  // mxfp4: one byte a block, [rows, cols/32]
    Nibbles nibbles = Nibbles::adjacent;           // mxfp4
    // Rows of a fused gate and up matrix: row r of the tensor is row r*row_step of the bytes, which start at its first.
    // `bytes` then counts from the first row's start to the last row's end.
    uint32_t row_step = 1;

    const std::string& shown() const { return label.empty() ? name : label; }
};

// Bytes of `count` values; for mxfp4 of the codes, with `count` a multiple of 32. Asks for a count that was checked.
uint64_t formatBytes(WeightFormat format, uint64_t count);

// Puts a tensor's values row by row, whatever their row step; mxfp4: its codes, in adjacent nibbles.
Result<void> copyTensor(const ByteSource& bytes, const TensorRange& tensor, const ByteSink& put);
Result<void> copyScales(const ByteSource& bytes, const TensorRange& tensor, const ByteSink& put);

// A MoE layer on disk: its description and where each tensor's bytes are. Routed experts may be scattered
// (MoE0 keeps an expert's tensors together), so a tensor of expert e is looked up by (role, e).
struct LayerSource {
    Description description;
    std::vector<TensorRange> tensors;   // "router.weight", "shared.up.weight", "experts.3.up.weight", ...
    std::vector<std::string> warnings;  // sentences for the user, e.g. what --compat let pass
    std::shared_ptr<const ByteSource> bytes;
    std::vector<uint32_t> by_name = {};  // `tensors` in the order of their names, made by index()

    // Null if there is none. Fast once index() was called after the last change of `tensors`; right in any case.
    const TensorRange* find(const std::string& name) const;
    void index();
    // "file: tensor name", for sentences about a tensor.
    std::string place(const TensorRange& tensor) const;
};

}  // namespace vkmoe::formats
