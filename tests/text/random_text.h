// Random texts that depend on the seed only.
#pragma once

#include <cstdint>
#include <random>
#include <string>

namespace test {

class RandomText {
public:
    explicit RandomText(uint64_t seed) : random_(seed) {}

    uint32_t below(uint64_t bound) { return static_cast<uint32_t>(random_() % bound); }
    std::string bytes(size_t count) {
        std::string text;
        while (text.size() < count) text += static_cast<char>(below(256));
        return text;
    }
    // UTF-8: characters of all lengths, words, and what pre-tokens turn on.
    std::string utf8(size_t pieces) {
        static const char* const kPieces[] = {" ",      "  ",      "\n",           "\r\n",         "\t",  "'s",
                                              "'ll",    "don't",   "the",          " the",         "ing", "12",
                                              "2026",   "e\u0301", "\u00a0",       "\ufeff",       "!",   "...",
                                              "\u4e16", "\u0663",  "\U0001f680",   "\u2167",       "x",   "constructor",
                                              "_",      "\"",      "<|im_start|>", "\u200d\ufe0f", "\\",  "\u0085"};
        std::string text;
        for (size_t i = 0; i < pieces; ++i) text += below(4) == 0 ? character() : kPieces[below(std::size(kPieces))];
        return text;
    }
    // Words of a few letters, in which many pairs are equally frequent.
    std::string letters(size_t count, uint32_t kinds) {
        std::string text;
        for (size_t i = 0; i < count; ++i) text += below(6) == 0 ? ' ' : static_cast<char>('a' + below(kinds));
        return text;
    }

private:
    std::string character() {
        static constexpr uint32_t kBounds[] = {0x80, 0x800, 0xd800, 0x110000};
        uint32_t c = below(kBounds[below(4)]);
        if (c >= 0xd800 && c < 0xe000) c = 0xfffd;
        if (c < 0x80) return {static_cast<char>(c)};
        const auto tail = [&](uint32_t shift) { return static_cast<char>(0x80 | (c >> shift & 0x3f)); };
        if (c < 0x800) return {static_cast<char>(0xc0 | c >> 6), tail(0)};
        if (c < 0x10000) return {static_cast<char>(0xe0 | c >> 12), tail(6), tail(0)};
        return {static_cast<char>(0xf0 | c >> 18), tail(12), tail(6), tail(0)};
    }

    std::mt19937_64 random_;
};

}  // namespace test
