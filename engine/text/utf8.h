// UTF-8, character by character, from bytes that nobody vouches for.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace vkmoe::text {

struct Utf8Char {
    enum class Kind {
        whole,
        bad,  // no character begins like this
        cut   // the text ends within what may be a character
    };
    Kind kind = Kind::bad;
    uint32_t bytes = 1;         // of a bad or cut one: its longest part that begins a character, at least 1
    char32_t code = U'\ufffd';  // of a whole one
};

// The character at the start of `text`, which is not empty.
Utf8Char firstChar(std::string_view text);

void appendChar(char32_t code, std::string& text);

inline constexpr std::string_view kReplacement = "\xef\xbf\xbd";
inline constexpr std::string_view kByteOrderMark = "\xef\xbb\xbf";

}  // namespace vkmoe::text
