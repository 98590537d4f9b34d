#include "tests/golden/systems.h"

#include <algorithm>
#include <fstream>
#include <stdexcept>

namespace tests {

Json systemCases(const std::string& file) {
    std::ifstream in(std::string(VKMOE_TEST_DATA) + "/systems/" + file + ".json");
    if (!in) throw std::runtime_error("no recorded file " + file);
    Json all = Json::parse(in), cases = Json::object();
    for (auto& one : all["cases"]) cases[one["case"].get<std::string>()] = one;
    return cases;
}

std::vector<uint64_t> shapeOf(const Json& tensor) { return tensor["shape"].get<std::vector<uint64_t>>(); }

std::vector<double> doublesOf(const Json& tensor) {
    if (tensor.contains("f")) return tensor["f"].get<std::vector<double>>();
    if (tensor.contains("i")) return tensor["i"].get<std::vector<double>>();
    auto out = tensor["q"].get<std::vector<double>>();
    for (double& v : out) v *= tensor["step"].get<double>();
    return out;
}

std::vector<float> floatsOf(const Json& tensor) {
    auto values = doublesOf(tensor);
    return {values.begin(), values.end()};
}

std::vector<uint32_t> integersOf(const Json& tensor) { return tensor["i"].get<std::vector<uint32_t>>(); }

std::vector<std::byte> bytesOf(const Json& tensor) {
    auto hex = tensor["u8"].get<std::string>();
    std::vector<std::byte> out;
    for (size_t i = 0; i < hex.size(); i += 2) out.push_back(std::byte(std::stoi(hex.substr(i, 2), nullptr, 16)));
    return out;
}

uint64_t SourceBuilder::append(const std::byte* data, size_t size) {
    uint64_t at = bytes_.size();
    bytes_.insert(bytes_.end(), data, data + size);
    return at;
}

void SourceBuilder::f32(const std::string& name, std::vector<uint64_t> shape, const std::vector<float>& values) {
    uint64_t bytes = values.size() * 4;
    source_.tensors.push_back({.name = name,
                               .shape = std::move(shape),
                               .offset = append(reinterpret_cast<const std::byte*>(values.data()), bytes),
                               .bytes = bytes});
}

void SourceBuilder::mxfp4(const std::string& name, uint64_t rows, uint64_t cols, std::vector<std::byte> codes,
                          std::vector<std::byte> scales, vkmoe::formats::Nibbles nibbles, uint32_t first,
                          uint32_t row_step) {
    uint64_t used_rows = (rows - 1) * row_step + 1;
    vkmoe::formats::TensorRange range{
        .name = name, .format = vkmoe::WeightFormat::mxfp4, .shape = {rows, cols}, .bytes = used_rows * cols / 2};
    range.offset = append(codes.data(), codes.size()) + first * cols / 2;
    range.scales_offset = append(scales.data(), scales.size()) + first * cols / 32;
    range.scales_bytes = used_rows * cols / 32;
    range.nibbles = nibbles;
    range.row_step = row_step;
    source_.tensors.push_back(std::move(range));
}

vkmoe::formats::LayerSource SourceBuilder::finish() {
    source_.bytes = vkmoe::memorySource("recorded layer", std::move(bytes_));
    return std::move(source_);
}

std::vector<float> transposed(const std::vector<float>& values, size_t rows, size_t cols) {
    std::vector<float> out(values.size());
    for (size_t r = 0; r < rows; ++r)
        for (size_t c = 0; c < cols; ++c) out[c * rows + r] = values[r * cols + c];
    return out;
}

}  // namespace tests
