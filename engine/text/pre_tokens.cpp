#include "engine/text/pre_tokens.h"

// Its C functions are all that is needed, and compile faster.
#define U_SHOW_CPLUSPLUS_API 0
#include <unicode/uchar.h>

#include <algorithm>
#include <iterator>

#include "engine/text/later_characters.h"
#include "engine/text/utf8.h"

namespace vkmoe::text {
namespace {

enum class Class { letter, number, space, other };

// Of characters that the ICU library is too old for.
Class laterClass(char32_t c) {
    const auto* range = std::lower_bound(std::begin(kLaterCharacters), std::end(kLaterCharacters), c,
                                         [](const CharacterRange& at, char32_t code) { return at.last < code; });
    if (range == std::end(kLaterCharacters) || c < range->first) return Class::other;
    return range->letter ? Class::letter : Class::number;
}

// Or too new.
bool isLater(char32_t c) {
    UVersionInfo version;
    u_charAge(static_cast<UChar32>(c), version);
    return version[0] > kUnicode;
}

Class classOf(char32_t c) {
    if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')) return Class::letter;
    if (c >= '0' && c <= '9') return Class::number;
    if (c < 0x80) return c == ' ' || (c >= '\t' && c <= '\r') ? Class::space : Class::other;
    if (c == 0x2028 || c == 0x2029 || c == 0xfeff) return Class::space;
    const int8_t type = u_charType(static_cast<UChar32>(c));
    if (type == U_SPACE_SEPARATOR) return Class::space;  // with those above, ECMAScript's \s
    if (type == U_UNASSIGNED) return laterClass(c);
    const bool letter = U_MASK(type) & U_GC_L_MASK, number = U_MASK(type) & U_GC_N_MASK;
    if ((!letter && !number) || isLater(c)) return Class::other;
    return letter ? Class::letter : Class::number;
}

// A place in the text and what stands there.
class Cursor {
public:
    explicit Cursor(std::string_view text) : text_(text) { look(); }

    bool at(Class wanted) const { return !done() && class_ == wanted; }
    bool atNewline() const { return !done() && (code_ == '\r' || code_ == '\n'); }
    bool at(char c) const { return !done() && code_ == static_cast<unsigned char>(c); }
    bool done() const { return at_ == text_.size(); }
    size_t offset() const { return at_; }
    void next() {
        at_ += bytes_;
        look();
    }
    void skip(Class wanted) {
        while (at(wanted)) next();
    }

private:
    void look() {
        if (done()) return;
        const Utf8Char c = firstChar(text_.substr(at_));
        code_ = c.code;
        bytes_ = c.bytes;
        class_ = classOf(code_);
    }

    std::string_view text_;
    size_t at_ = 0;
    char32_t code_ = 0;
    uint32_t bytes_ = 0;
    Class class_ = Class::other;
};

size_t contraction(std::string_view text) {
    for (const std::string_view ending : {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"})
        if (text.starts_with(ending)) return ending.size();
    return 0;
}

size_t threeNumbers(Cursor cursor) {
    for (int i = 0; i < 3 && cursor.at(Class::number); ++i) cursor.next();
    return cursor.offset();
}

size_t symbols(Cursor cursor) {
    cursor.skip(Class::other);
    while (cursor.atNewline()) cursor.next();
    return cursor.offset();
}

// Up to the last line end of the run; without one, all but the last character if something follows.
size_t spaces(Cursor cursor) {
    size_t after_newline = 0, last = 0;
    while (cursor.at(Class::space)) {
        const bool newline = cursor.atNewline();
        last = cursor.offset();
        cursor.next();
        if (newline) after_newline = cursor.offset();
    }
    if (after_newline) return after_newline;
    return cursor.done() || last == 0 ? cursor.offset() : last;
}

}  // namespace

size_t preTokenBytes(std::string_view text) {
    if (const size_t bytes = text.front() == '\'' ? contraction(text) : 0) return bytes;
    const Cursor first(text);
    if (first.at(Class::number)) return threeNumbers(first);
    Cursor cursor = first;
    if (!first.at(Class::letter) && !first.atNewline()) cursor.next();
    if (cursor.at(Class::letter)) {
        cursor.skip(Class::letter);
        return cursor.offset();
    }
    if (first.at(Class::other)) return symbols(first);
    if (first.at(' ') && cursor.at(Class::other)) return symbols(cursor);
    return spaces(first);
}

}  // namespace vkmoe::text
