#include "engine/text/utf8.h"

#include <catch2/catch_test_macros.hpp>

#include "tests/text/random_text.h"
#include "vkmoe/text_codec.h"

using namespace vkmoe;

namespace {

std::vector<uint32_t> bytesOf(std::string_view text) { return ByteCodec().encode(text); }

std::string streamed(const TextCodec& codec, const std::vector<uint32_t>& ids) {
    StreamDecoder decoder(codec);
    std::string text;
    for (const uint32_t id : ids) {
        const std::string piece = decoder.put(id);
        CHECK_FALSE(checkUtf8(piece));
        text += piece;
    }
    return text + decoder.finish();
}

}  // namespace

TEST_CASE("bytes that are not UTF-8 are found and replaced", "[text]") {
    struct Row {
        std::string_view text;
        std::optional<uint64_t> bad;
        std::string_view repaired;
    };
    using namespace std::string_view_literals;
    const Row rows[] = {
        {"", {}, ""},
        {"a\0b"sv, {}, "a\0b"sv},
        {"\u007f\u0080\u07ff\u0800\ud7ff\ue000\uffff\U00010000\U0010ffff",
         {},
         "\u007f\u0080\u07ff\u0800\ud7ff\ue000\uffff\U00010000\U0010ffff"},
        {"ab\x80", 2, "ab\ufffd"},
        {"a\xc3", 1, "a\ufffd"},
        {"\xc3\xa9\xe2\x82", 2, "\u00e9\ufffd"},
        {"\xe2\x82z", 0, "\ufffdz"},
        {"\xf0\x9f\x9a", 0, "\ufffd"},
        {"\xf0\x9f\x9a\xf0\x9f\x9a\x80", 0, "\ufffd\U0001f680"},
        {"\xc0\xaf", 0, "\ufffd\ufffd"},            // overlong
        {"\xe0\x80\xaf", 0, "\ufffd\ufffd\ufffd"},  // overlong
        {"\xf0\x80\x80\xaf", 0, "\ufffd\ufffd\ufffd\ufffd"},
        {"\xed\xa0\xbd", 0, "\ufffd\ufffd\ufffd"},            // a surrogate
        {"\xf4\x90\x80\x80", 0, "\ufffd\ufffd\ufffd\ufffd"},  // above U+10FFFF
        {"\xf5\xff", 0, "\ufffd\ufffd"},
        {"\xef\xbb\xbfx", {}, "\xef\xbb\xbfx"},  // a byte order mark is a character
    };
    for (const Row& row : rows) {
        CAPTURE(bytesOf(row.text));
        CHECK(checkUtf8(row.text) == row.bad);
        CHECK(repairUtf8(row.text) == row.repaired);
        if (!row.text.starts_with(text::kByteOrderMark)) CHECK(ByteCodec().decode(bytesOf(row.text)) == row.repaired);
    }
}

TEST_CASE("every two and three bytes are checked alike in one piece and in two", "[text]") {
    for (uint32_t lead = 0x80; lead < 0x100; ++lead)
        for (uint32_t second = 0x7f; second < 0x101; second += lead < 0xe0 ? 1 : 3) {
            const std::string text = {static_cast<char>(lead), static_cast<char>(second), '\x80', '\xbf'};
            const std::string repaired = repairUtf8(text);
            if (checkUtf8(repaired) || streamed(ByteCodec(), bytesOf(text)) != repaired) FAIL(lead << " " << second);
        }
}

TEST_CASE("a stream gives whole characters, and all of the text", "[text]") {
    const ByteCodec codec;
    StreamDecoder decoder(codec);
    CHECK(decoder.put(0xf0).empty());
    CHECK(decoder.put(0x9f).empty());
    CHECK(decoder.put(0x9a).empty());
    CHECK(decoder.put(0x80) == "\U0001f680");
    CHECK(decoder.put(0xe2).empty());
    CHECK(decoder.put('x') == "\ufffdx");
    CHECK(decoder.put(0xe2).empty());
    CHECK(decoder.put(256).empty());  // no id
    CHECK(decoder.put(0x82).empty());
    CHECK(decoder.finish() == "\ufffd");
    CHECK(decoder.finish().empty());

    // A byte order mark is dropped where a text begins, there alone.
    for (const uint32_t byte : {0xef, 0xbb, 0xbf}) CHECK(decoder.put(byte).empty());
    CHECK(decoder.put('a') == "a");
    CHECK(decoder.put(0xef).empty());
    CHECK(decoder.put(0xbb).empty());
    CHECK(decoder.put(0xbf) == text::kByteOrderMark);
    CHECK(decoder.finish().empty());
}

TEST_CASE("a stream of random ids is what decode makes of them", "[text]") {
    const BpeCodec bpe = BpeCodec::train("e\u0301\u4e16\u754c \u4e16\u754c \U0001f680\U0001f680 \u4e16\u4e16\u754c",
                                         {.merges = 12, .min_frequency = 1, .special = {}});
    const ByteCodec bytes;
    for (uint64_t seed = 0; seed < 200; ++seed) {
        CAPTURE(seed);
        test::RandomText random(seed);
        const TextCodec& codec = seed % 2 ? static_cast<const TextCodec&>(bpe) : bytes;
        std::vector<uint32_t> ids = codec.encode(random.utf8(10));
        for (int i = 0; i < 10; ++i) ids.push_back(random.below(codec.idLimit() + 2));
        const std::string text = codec.decode(ids);
        CHECK(streamed(codec, ids) == text);
        const std::string repaired = repairUtf8(codec.decodeBytes(ids));
        const bool mark = repaired.starts_with(text::kByteOrderMark);
        CHECK(text == repaired.substr(mark ? text::kByteOrderMark.size() : 0));
    }
}
