#include "samples/vkmoe/tensor_file.h"

#include <fmt/format.h>

#include <bit>
#include <cstring>
#include <random>

#include "host/file.h"

static_assert(std::endian::native == std::endian::little, "raw tensors are little-endian");

namespace vkmoe::program {

Result<std::vector<float>> readTokens(const std::string& path, uint32_t width) {
    VKMOE_TRY(bytes, readFile(path));
    uint64_t row = uint64_t{width} * 4;
    if (bytes.size() % row != 0)
        return Error{ErrorCode::bad_input,
                     fmt::format("{}: {} bytes are no whole number of tokens of {} bytes ({} f32 values each)", path,
                                 bytes.size(), row, width)};
    std::vector<float> values(bytes.size() / 4);
    if (!values.empty()) std::memcpy(values.data(), bytes.data(), bytes.size());
    return values;
}

std::vector<float> randomTokens(uint32_t tokens, uint32_t width, uint32_t seed) {
    std::mt19937 random(seed);
    std::vector<float> values(size_t{tokens} * width);
    for (float& value : values) value = float(int32_t(random())) * 0x1p-31f;
    return values;
}

Result<void> writeTokens(const std::string& path, const std::vector<float>& values) {
    return writeFile(path, std::as_bytes(std::span(values)));
}

Result<void> writeText(const std::string& path, const std::string& text) {
    return writeFile(path, std::as_bytes(std::span(text)));
}

}  // namespace vkmoe::program
