#include "engine/text/byte_alphabet.h"

#include "engine/text/utf8.h"

namespace vkmoe::text {
namespace {

constexpr uint32_t kOthers = 68;  // bytes without a visible character of their own

constexpr bool isVisible(uint32_t byte) {
    return (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
}

struct Alphabet {
    Alphabet() {
        uint32_t visible = 0, other = 0;
        for (uint32_t byte = 0; byte < 256; ++byte) {
            const bool own = isVisible(byte);
            appendChar(own ? byte : 256 + other, names[byte]);
            order[own ? visible : 256 - kOthers + other] = static_cast<uint8_t>(byte);
            if (!own) others[other] = static_cast<uint8_t>(byte);
            ++(own ? visible : other);
        }
    }

    std::array<std::string, 256> names;
    std::array<uint8_t, 256> order{};
    std::array<uint8_t, kOthers> others{};
};

const Alphabet& alphabet() {
    static const Alphabet kAlphabet;
    return kAlphabet;
}

}  // namespace

const std::string& byteName(uint8_t byte) { return alphabet().names[byte]; }

const std::array<uint8_t, 256>& bytesInOrder() { return alphabet().order; }

std::string nameOfBytes(std::string_view bytes) {
    std::string name;
    for (const char byte : bytes) name += byteName(static_cast<uint8_t>(byte));
    return name;
}

std::optional<NamedBytes> bytesOfName(std::string_view name) {
    NamedBytes named;
    while (!name.empty()) {
        const Utf8Char c = firstChar(name);
        if (c.kind != Utf8Char::Kind::whole) return {};
        const bool other = c.code >= 256 && c.code < 256 + kOthers;
        named.plain &= other || (c.code < 256 && isVisible(c.code));
        named.bytes += static_cast<char>(other ? alphabet().others[c.code - 256] : c.code & 0xff);
        name.remove_prefix(c.bytes);
    }
    return named;
}

}  // namespace vkmoe::text
