// Checked: the arithmetic and the reads under every format's reader. A number from a file is multiplied, added and
// compared here, before anything of its size is allocated or read.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "host/file.h"
#include "host/result.h"

namespace vkmoe::formats {

// Nothing where 64 bits cannot hold the result.
inline std::optional<uint64_t> checkedAdd(uint64_t a, uint64_t b) {
    uint64_t sum = 0;
    if (__builtin_add_overflow(a, b, &sum)) return {};
    return sum;
}
inline std::optional<uint64_t> checkedMul(uint64_t a, uint64_t b) {
    uint64_t product = 0;
    if (__builtin_mul_overflow(a, b, &product)) return {};
    return product;
}
// From left to right; 1 of no factors. A later zero does not heal an overflow.
std::optional<uint64_t> checkedProduct(std::span<const uint64_t> factors);

// bad_input: "file: detail".
Error inputError(const std::string& file, const std::string& detail);

// bad_input, of code that does not know the file.
inline Error refused(std::string detail) { return {ErrorCode::bad_input, std::move(detail)}; }

// The error of something in `file`, found by code that does not know the file.
Error inFile(const std::string& file, const Error& error);

// Reads a field of a file's header. Bytes that the file does not have are an error that names file, field and offset.
Result<void> readField(const ByteSource& file, const char* field, uint64_t offset, std::span<std::byte> into);

// The little-endian number at the start of `bytes`, which has as many.
uint32_t littleU32(std::span<const std::byte> bytes);
uint64_t littleU64(std::span<const std::byte> bytes);

// A text from a file as error sentences show it: on one line, and not too long.
std::string shown(std::string_view text);

// "[2, 3]"
std::string shapeText(std::span<const uint64_t> shape);

}  // namespace vkmoe::formats
