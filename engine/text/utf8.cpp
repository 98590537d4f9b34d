#include "engine/text/utf8.h"

#include "vkmoe/text_codec.h"

namespace vkmoe {
namespace text {
namespace {

// What may follow a first byte: how many bytes in all, and the range of the second (Unicode standard, table 3-7).
struct Lead {
    uint32_t bytes;
    uint8_t low, high;
};

constexpr Lead leadOf(uint8_t byte) {
    if (byte < 0x80) return {1, 0, 0};
    if (byte < 0xc2 || byte > 0xf4) return {0, 0, 0};
    if (byte < 0xe0) return {2, 0x80, 0xbf};
    if (byte < 0xf0)
        return {3, byte == 0xe0 ? uint8_t{0xa0} : uint8_t{0x80}, byte == 0xed ? uint8_t{0x9f} : uint8_t{0xbf}};
    return {4, byte == 0xf0 ? uint8_t{0x90} : uint8_t{0x80}, byte == 0xf4 ? uint8_t{0x8f} : uint8_t{0xbf}};
}

}  // namespace

Utf8Char firstChar(std::string_view text) {
    const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
    const Lead lead = leadOf(byte(0));
    if (lead.bytes == 1) return {Utf8Char::Kind::whole, 1, byte(0)};
    if (lead.bytes == 0) return {};
    char32_t code = byte(0) & (0x7fu >> lead.bytes);
    for (uint32_t i = 1; i < lead.bytes; ++i) {
        if (i == text.size()) return {Utf8Char::Kind::cut, i};
        const uint8_t low = i == 1 ? lead.low : 0x80, high = i == 1 ? lead.high : 0xbf;
        if (byte(i) < low || byte(i) > high) return {Utf8Char::Kind::bad, i};
        code = code << 6 | (byte(i) & 0x3fu);
    }
    return {Utf8Char::Kind::whole, lead.bytes, code};
}

void appendChar(char32_t code, std::string& text) {
    const auto put = [&](uint32_t byte) { text += static_cast<char>(byte); };
    const auto tail = [&](uint32_t shift) { put(0x80 | (code >> shift & 0x3f)); };
    if (code < 0x80) return put(code);
    if (code < 0x800) return put(0xc0 | code >> 6), tail(0);
    if (code < 0x10000) return put(0xe0 | code >> 12), tail(6), tail(0);
    put(0xf0 | code >> 18), tail(12), tail(6), tail(0);
}

}  // namespace text

inline namespace v1 {

std::optional<uint64_t> checkUtf8(std::string_view text) {
    for (size_t at = 0; at < text.size();) {
        if (static_cast<unsigned char>(text[at]) < 0x80) {
            ++at;
            continue;
        }
        const text::Utf8Char c = text::firstChar(text.substr(at));
        if (c.kind != text::Utf8Char::Kind::whole) return at;
        at += c.bytes;
    }
    return {};
}

std::string repairUtf8(std::string_view text) {
    std::string out;
    out.reserve(text.size());
    while (!text.empty()) {
        const text::Utf8Char c = text::firstChar(text);
        out += c.kind == text::Utf8Char::Kind::whole ? text.substr(0, c.bytes) : text::kReplacement;
        text.remove_prefix(c.bytes);
    }
    return out;
}

}  // namespace v1
}  // namespace vkmoe
