#include "engine/formats/row_delta.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cassert>
#include <cmath>
#include <cstring>
#include <optional>

#include "engine/formats/checked.h"
#include "engine/formats/crc_trailer.h"
#include "engine/formats/lm_parameters.h"

namespace vkmoe::formats {
namespace {

static_assert(std::endian::native == std::endian::little, "EVD0 data are copied as they are");

constexpr uint32_t kMagic = 0x30445645;
constexpr uint32_t kVersion = 1;

struct Header {
    uint32_t magic, version, row_size, rows;
};
static_assert(sizeof(Header) == kEvd0HeaderBytes);

Error plainError(const std::string& detail) { return {ErrorCode::bad_input, detail}; }

bool differ(float base, float current, const Difference& difference) {
    if (difference.by_bits) return std::bit_cast<uint32_t>(base) != std::bit_cast<uint32_t>(current);
    return std::abs(double(current) - double(base)) > difference.epsilon;
}

Result<void> checkRowSize(uint64_t length, uint32_t row_size) {
    if (row_size > 0 && length % row_size == 0 && length / row_size <= UINT32_MAX) return {};
    if (row_size > 0 && length % row_size == 0)
        return plainError(
            fmt::format("{} numbers in rows of {} are more rows than 32 bits can count", length, row_size));
    return plainError(fmt::format("rowSize is {}, which must divide {} numbers", row_size, length));
}

// --------------------------------------------------------------------------------------------------------- reading

Result<Header> readHeader(const ByteSource& file, bool compat) {
    std::array<std::byte, kEvd0HeaderBytes> bytes = {};
    if (file.size() < kEvd0HeaderBytes)
        return inputError(file.name(),
                          fmt::format("length is {} bytes; the header of an EVD0 file has 16", file.size()));
    VKMOE_CHECK(file.read(0, bytes));
    Header header = {};
    std::memcpy(&header, bytes.data(), sizeof header);
    if (header.magic != kMagic)
        return inputError(file.name(),
                          fmt::format("magic is {:#010x}; EVD0 files start with {:#010x}", header.magic, kMagic));
    if (header.version != kVersion && !compat)
        return inputError(file.name(), fmt::format("version is {}; EVD0 files have version 1", header.version));
    if (header.row_size == 0) return inputError(file.name(), "rowSize is 0; it must be at least 1");
    return header;
}

// Header, row numbers and values; nothing where 64 bits cannot count them.
std::optional<uint64_t> bodyBytes(const Header& header) {
    const std::optional<uint64_t> row = checkedAdd(uint64_t{header.row_size} * 4, 4);
    const std::optional<uint64_t> all = checkedMul(*row, header.rows);
    return all ? checkedAdd(*all, kEvd0HeaderBytes) : all;
}

Result<void> checkLength(const ByteSource& file, const Header& header, const Trailer& trailer, bool compat) {
    const std::optional<uint64_t> expected = bodyBytes(header);
    if (expected && trailer.body == *expected && (trailer.present || compat)) return {};
    if (expected && trailer.body > *expected && compat) return {};
    const std::string wanted = expected && *expected <= UINT64_MAX - kTrailerBytes
                                   ? fmt::format("exactly {}", *expected + kTrailerBytes)
                                   : "more than 64 bits can count";
    return inputError(file.name(), fmt::format("length is {} bytes; nRows {} of rowSize {} make {} with the trailer",
                                               file.size(), header.rows, header.row_size, wanted));
}

Result<void> checkOrder(const ByteSource& file, const std::vector<uint32_t>& rows) {
    for (size_t i = 1; i < rows.size(); ++i)
        if (rows[i] <= rows[i - 1])
            return inputError(file.name(), fmt::format("row {} comes after row {}; rows are in ascending order",
                                                       rows[i], rows[i - 1]));
    return {};
}

// A checkpoint's bytes before its trailer, as numbers.
Result<std::vector<float>> wordsOf(const ByteSource& file) {
    VKMOE_TRY(trailer, readTrailer(file));
    if (trailer.present) VKMOE_CHECK(checkTrailer(file, trailer));
    if (trailer.body % 4 != 0)
        return inputError(file.name(), fmt::format("it has {} bytes before its trailer, which are no multiple of 4: a "
                                                   "delta is of 32-bit numbers",
                                                   trailer.body));
    VKMOE_TRY(words, zeroFloats(trailer.body / 4));
    VKMOE_CHECK(file.read(0, std::as_writable_bytes(std::span(words))));
    return words;
}

}  // namespace

Result<RowDelta> computeRowDelta(std::span<const float> base, std::span<const float> current, uint32_t row_size,
                                 Difference difference) {
    if (base.size() != current.size())
        return plainError(fmt::format("the base has {} numbers, and the other {}; a delta is of two alike", base.size(),
                                      current.size()));
    VKMOE_CHECK(checkRowSize(base.size(), row_size));
    RowDelta delta;
    delta.row_size = row_size;
    for (uint64_t at = 0; at < base.size(); at += row_size) {
        const auto old = base.subspan(at, row_size), now = current.subspan(at, row_size);
        const auto same = [&](float a, float b) { return !differ(a, b, difference); };
        if (std::equal(old.begin(), old.end(), now.begin(), same)) continue;
        delta.rows.push_back(uint32_t(at / row_size));
        delta.values.insert(delta.values.end(), now.begin(), now.end());
    }
    return delta;
}

Result<std::vector<float>> applyRowDelta(std::span<const float> base, const RowDelta& delta) {
    assert(delta.values.size() == delta.rows.size() * delta.row_size);
    VKMOE_CHECK(checkRowSize(base.size(), delta.row_size));
    const uint64_t rows = base.size() / delta.row_size;
    std::vector<float> all(base.begin(), base.end());
    for (size_t i = 0; i < delta.rows.size(); ++i) {
        if (delta.rows[i] >= rows)
            return plainError(fmt::format("row {} of the delta is beyond the base's {} rows of {} numbers",
                                          delta.rows[i], rows, delta.row_size));
        std::memcpy(&all[uint64_t{delta.rows[i]} * delta.row_size], &delta.values[i * delta.row_size],
                    delta.row_size * sizeof(float));
    }
    return all;
}

uint32_t lmRowSize(const LmConfig& config) {
    return parameterCount(config) % config.model_dim == 0 ? config.model_dim : 1;
}

Result<RowDelta> computeLmDelta(const LmConfig& config, std::span<const float> base, std::span<const float> current) {
    VKMOE_CHECK(validate(config));
    const uint64_t all = parameterCount(config);
    if (base.size() != all)
        return plainError(fmt::format("the base has {} parameters, and the model {}", base.size(), all));
    return computeRowDelta(base, current, lmRowSize(config), {.by_bits = true});
}

Result<RowDelta> computeFileDelta(const ByteSource& base, const ByteSource& current) {
    VKMOE_TRY(old, wordsOf(base));
    VKMOE_TRY(now, wordsOf(current));
    auto delta = computeRowDelta(old, now, 1, {.by_bits = true});
    if (!delta) return inFile(current.name(), delta.error());
    return delta;
}

Result<std::vector<std::byte>> applyFileDelta(const ByteSource& base, const RowDelta& delta) {
    VKMOE_TRY(old, wordsOf(base));
    auto words = applyRowDelta(old, delta);
    if (!words) return inFile(base.name(), words.error());
    VKMOE_TRY(bytes, zeroBytes(words.value().size() * 4, kTrailerBytes));
    if (!bytes.empty()) std::memcpy(bytes.data(), words.value().data(), bytes.size());
    appendTrailer(bytes);
    return bytes;
}

bool looksLikeRowDelta(std::span<const std::byte> first_bytes) {
    return first_bytes.size() >= 4 && littleU32(first_bytes) == kMagic;
}

Result<RowDelta> readRowDelta(const ByteSource& file, bool compat) {
    VKMOE_TRY(header, readHeader(file, compat));
    VKMOE_TRY(trailer, readTrailer(file));
    VKMOE_CHECK(checkLength(file, header, trailer, compat));
    if (trailer.present) VKMOE_CHECK(checkTrailer(file, trailer));
    RowDelta delta;
    delta.row_size = header.row_size;
    delta.rows.resize(header.rows);
    VKMOE_CHECK(file.read(kEvd0HeaderBytes, std::as_writable_bytes(std::span(delta.rows))));
    VKMOE_TRY(values, zeroFloats(uint64_t{header.rows} * header.row_size));
    VKMOE_CHECK(file.read(kEvd0HeaderBytes + 4 * uint64_t{header.rows}, std::as_writable_bytes(std::span(values))));
    delta.values = std::move(values);
    if (!compat) VKMOE_CHECK(checkOrder(file, delta.rows));
    return delta;
}

std::vector<std::byte> writeRowDelta(const RowDelta& delta) {
    assert(delta.values.size() == delta.rows.size() * delta.row_size);
    const Header header = {kMagic, kVersion, delta.row_size, uint32_t(delta.rows.size())};
    std::vector<std::byte> bytes(*bodyBytes(header));
    std::memcpy(bytes.data(), &header, sizeof header);
    const size_t rows = delta.rows.size() * sizeof(uint32_t);
    if (rows > 0) std::memcpy(&bytes[sizeof header], delta.rows.data(), rows);
    if (rows > 0) std::memcpy(&bytes[sizeof header + rows], delta.values.data(), delta.values.size() * sizeof(float));
    appendTrailer(bytes);
    return bytes;
}

}  // namespace vkmoe::formats
