// The byte alphabet of byte-level BPE: each byte has a visible character, by which vocabularies write it. Bytes 0x21 to
// 0x7e, 0xa1 to 0xac and 0xae to 0xff are the character of the same number; the others, in order, U+0100 and on.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace vkmoe::text {

// Its character, in UTF-8.
const std::string& byteName(uint8_t byte);

// All bytes in the order of their ids: the three ranges above, then the others.
const std::array<uint8_t, 256>& bytesInOrder();

std::string nameOfBytes(std::string_view bytes);

struct NamedBytes {
    std::string bytes;
    bool plain = true;  // only characters of the alphabet; of another, its number modulo 256 is the byte
};
// Nothing if the name is not UTF-8.
std::optional<NamedBytes> bytesOfName(std::string_view name);

}  // namespace vkmoe::text
