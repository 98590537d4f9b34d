// Recorded layers of the real systems (tests/golden/data/systems), and layers built from them.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "engine/formats/tensor_source.h"

namespace tests {

using Json = nlohmann::json;

// The cases of a file, e.g. "sys004", by name.
Json systemCases(const std::string& file);

std::vector<uint64_t> shapeOf(const Json& tensor);
std::vector<double> doublesOf(const Json& tensor);  // of "q", "i" or "f"
std::vector<float> floatsOf(const Json& tensor);    // the same, exact for inputs
std::vector<uint32_t> integersOf(const Json& tensor);
std::vector<std::byte> bytesOf(const Json& tensor);  // of "u8"

// A layer in memory, tensor by tensor.
class SourceBuilder {
public:
    explicit SourceBuilder(vkmoe::Description description) { source_.description = description; }

    void f32(const std::string& name, std::vector<uint64_t> shape, const std::vector<float>& values);
    // Every row_step-th row of MXFP4 codes and scales, from row `first`.
    void mxfp4(const std::string& name, uint64_t rows, uint64_t cols, std::vector<std::byte> codes,
               std::vector<std::byte> scales, vkmoe::formats::Nibbles nibbles, uint32_t first = 0,
               uint32_t row_step = 1);
    vkmoe::formats::LayerSource finish();

private:
    uint64_t append(const std::byte* data, size_t size);

    vkmoe::formats::LayerSource source_;
    std::vector<std::byte> bytes_;
};

// [rows, cols] to [cols, rows].
std::vector<float> transposed(const std::vector<float>& values, size_t rows, size_t cols);

}  // namespace tests
