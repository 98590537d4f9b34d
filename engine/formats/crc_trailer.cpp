#include "engine/formats/crc_trailer.h"

#include <fmt/format.h>
#include <zlib.h>

#include <algorithm>
#include <array>
#include <cassert>
#include <cstring>

#include "engine/formats/checked.h"

namespace vkmoe::formats {
namespace {

constexpr uint32_t kMagic = 0x52435645;
constexpr uint64_t kPieceBytes = uint64_t{1} << 20;

uLong continued(uLong crc, std::span<const std::byte> bytes) {
    return crc32_z(crc, reinterpret_cast<const Bytef*>(bytes.data()), bytes.size());
}

}  // namespace

// An empty span's null would start zlib anew.
uint32_t crc32(std::span<const std::byte> bytes, uint32_t before) {
    return bytes.empty() ? before : uint32_t(continued(before, bytes));
}
uint32_t crc32(std::span<const std::byte> bytes) { return crc32(bytes, 0); }

Result<Trailer> readTrailer(const ByteSource& file) {
    Trailer trailer{.present = false, .body = file.size(), .stored = 0};
    if (file.size() < kTrailerBytes) return trailer;
    std::array<std::byte, kTrailerBytes> bytes = {};
    VKMOE_CHECK(file.read(file.size() - kTrailerBytes, bytes));
    if (littleU32(bytes) != kMagic) return trailer;
    return Trailer{true, file.size() - kTrailerBytes, littleU32(std::span(bytes).subspan(4))};
}

Result<void> checkTrailer(const ByteSource& file, const Trailer& trailer) {
    assert(trailer.present);
    std::vector<std::byte> piece(std::min(trailer.body, kPieceBytes));
    uLong crc = 0;
    for (uint64_t done = 0; done < trailer.body; done += piece.size()) {
        piece.resize(std::min(trailer.body - done, kPieceBytes));
        VKMOE_CHECK(file.read(done, piece));
        crc = continued(crc, piece);
    }
    if (crc == trailer.stored) return {};
    return inputError(file.name(), fmt::format("the CRC-32 in the trailer is {:#010x}, that of the {} bytes before it "
                                               "is {:#010x}: the file is damaged",
                                               trailer.stored, trailer.body, crc));
}

std::array<std::byte, kTrailerBytes> trailerOf(uint32_t crc) {
    const uint32_t words[] = {kMagic, crc};
    std::array<std::byte, kTrailerBytes> bytes;
    std::memcpy(bytes.data(), words, sizeof words);
    return bytes;
}

void appendTrailer(std::vector<std::byte>& bytes) {
    const auto trailer = trailerOf(crc32(bytes));
    bytes.insert(bytes.end(), trailer.begin(), trailer.end());
}

}  // namespace vkmoe::formats
