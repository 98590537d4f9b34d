#include "engine/formats/checked.h"

#include <fmt/format.h>

namespace vkmoe::formats {

std::optional<uint64_t> checkedProduct(std::span<const uint64_t> factors) {
    std::optional<uint64_t> product = 1;
    for (const uint64_t factor : factors) {
        product = checkedMul(*product, factor);
        if (!product) return {};
    }
    return product;
}

Error inputError(const std::string& file, const std::string& detail) {
    return {ErrorCode::bad_input, fmt::format("{}: {}", file, detail)};
}

Error inFile(const std::string& file, const Error& error) {
    return {error.code, fmt::format("{}: {}", file, error.detail), error.vk_result};
}

Result<void> readField(const ByteSource& file, const char* field, uint64_t offset, std::span<std::byte> into) {
    const std::optional<uint64_t> end = checkedAdd(offset, into.size());
    if (!end || *end > file.size())
        return inputError(file.name(), fmt::format("{} has {} bytes at offset {}, but the length is {}", field,
                                                   into.size(), offset, file.size()));
    return file.read(offset, into);
}

uint32_t littleU32(std::span<const std::byte> bytes) {
    uint32_t number = 0;
    for (size_t i = 0; i < sizeof number; ++i) number |= std::to_integer<uint32_t>(bytes[i]) << 8 * i;
    return number;
}

uint64_t littleU64(std::span<const std::byte> bytes) {
    return littleU32(bytes) | uint64_t{littleU32(bytes.subspan(4))} << 32;
}

std::string shown(std::string_view text) {
    constexpr size_t kLongest = 80;
    std::string out;
    for (const char c : text.substr(0, kLongest))
        if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f)
            out += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
        else
            out += c;
    if (text.size() > kLongest) out += "...";
    return out;
}

std::string shapeText(std::span<const uint64_t> shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

}  // namespace vkmoe::formats
