// CrcTrailer: the last 8 bytes of the reference engine's EVL0 and EVD0 files: u32 0x52435645 ("EVCR") and the CRC-32 of
// all bytes before them.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "host/file.h"
#include "host/result.h"

namespace vkmoe::formats {

inline constexpr uint64_t kTrailerBytes = 8;

// IEEE, reflected: of "123456789" it is 0xcbf43926.
uint32_t crc32(std::span<const std::byte> bytes);
// Of more bytes: those that had `before`, and these.
uint32_t crc32(std::span<const std::byte> bytes, uint32_t before);

struct Trailer {
    bool present = false;
    uint64_t body = 0;    // bytes before it; without one, all
    uint32_t stored = 0;  // its CRC
};

// Whether there is one; its CRC is not checked.
Result<Trailer> readTrailer(const ByteSource& file);

// Reads the file's body. A CRC that is not the stored one is an error that tells both.
Result<void> checkTrailer(const ByteSource& file, const Trailer& trailer);

void appendTrailer(std::vector<std::byte>& bytes);
std::array<std::byte, kTrailerBytes> trailerOf(uint32_t crc);

}  // namespace vkmoe::formats
