#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators_range.hpp>
#include <map>
#include <utility>

#include "engine/text/bpe_trainer.h"
#include "engine/text/byte_alphabet.h"
#include "host/file.h"
#include "tests/formats/test_folder.h"
#include "tests/text/random_text.h"
#include "vkmoe/text_codec.h"

using namespace vkmoe;

namespace {

using Halves = std::pair<std::string, std::string>;

// Counts all pairs anew before each merge.
std::vector<Halves> learnedNaively(std::span<const text::WordCount> words, uint32_t merges, uint64_t min_frequency) {
    std::vector<std::vector<std::string>> symbols;
    for (const auto& word : words) {
        symbols.emplace_back();
        for (const char byte : word.word) symbols.back().emplace_back(1, byte);
    }
    std::vector<Halves> learned;
    while (learned.size() < merges) {
        std::map<Halves, uint64_t> counts;
        std::vector<Halves> in_order;
        for (size_t w = 0; w < words.size(); ++w)
            for (size_t i = 0; i + 1 < symbols[w].size(); ++i) {
                const auto [at, added] = counts.try_emplace({symbols[w][i], symbols[w][i + 1]}, 0);
                if (added) in_order.push_back(at->first);
                at->second += words[w].count;
            }
        const Halves* best = nullptr;
        for (const Halves& pair : in_order)
            if (!best || counts[pair] > counts[*best]) best = &pair;
        if (!best || counts[*best] < min_frequency) break;
        learned.push_back(*best);
        for (auto& word : symbols)
            for (size_t i = 0; i + 1 < word.size(); ++i)
                if (word[i] == best->first && word[i + 1] == best->second) {
                    word[i] += word[i + 1];
                    word.erase(word.begin() + static_cast<ptrdiff_t>(i) + 1);
                }
    }
    return learned;
}

// Joins the strongest pair, of equals the leftmost, until there is none; every byte is a token.
std::vector<uint32_t> encodedNaively(const BpeCodec& codec, std::string_view word) {
    if (const auto id = codec.id(text::nameOfBytes(word))) return {*id};
    std::vector<std::string> symbols;
    for (const char byte : word) symbols.push_back(text::nameOfBytes({&byte, 1}));
    std::map<Halves, size_t> ranks;
    for (const auto& merge : codec.merges()) ranks[merge] = ranks.size();
    for (;;) {
        size_t best = SIZE_MAX, at = 0;
        for (size_t i = 0; i + 1 < symbols.size(); ++i) {
            const auto rank = ranks.find({symbols[i], symbols[i + 1]});
            if (rank == ranks.end() || rank->second >= best) continue;
            best = rank->second;
            at = i;
        }
        if (best == SIZE_MAX) break;
        symbols[at] += symbols[at + 1];
        symbols.erase(symbols.begin() + static_cast<ptrdiff_t>(at) + 1);
    }
    std::vector<uint32_t> ids;
    for (const std::string& symbol : symbols) ids.push_back(codec.id(symbol).value());
    return ids;
}

BpeTraining upTo(uint32_t merges, uint64_t min_frequency = 2) {
    return {.merges = merges, .min_frequency = min_frequency, .special = {}};
}

}  // namespace

TEST_CASE("bytes are their own ids", "[text]") {
    const ByteCodec codec;
    CHECK(codec.vocabSize() == 256);
    for (uint64_t seed = 0; seed < 20; ++seed) {
        CAPTURE(seed);
        const std::string text = test::RandomText(seed).bytes(seed * 37);
        const auto ids = codec.encode(text, true, true);  // there are no such tokens
        REQUIRE(ids.size() == text.size());
        CHECK(codec.decodeBytes(ids) == text);
    }
}

TEST_CASE("merges are those of a trainer that counts anew each time", "[text]") {
    const uint32_t small = GENERATE_COPY(range(0u, 24u));
    CAPTURE(small);
    test::RandomText random(small);
    std::vector<std::string> texts;
    for (uint32_t i = 0; i < 1 + small % 3; ++i)
        texts.push_back(small % 4 == 3 ? random.utf8(120) : random.letters(20 + 30 * (small % 8), 1 + small % 5));
    const std::vector<std::string_view> corpus(texts.begin(), texts.end());
    const auto words = text::countWords(corpus);
    for (const uint64_t min_frequency : {1, 2, 5})
        CHECK(text::learnMerges(words, 150, min_frequency) == learnedNaively(words, 150, min_frequency));
}

TEST_CASE("words encode as by joining one pair after the other", "[text]") {
    for (uint64_t seed = 0; seed < 12; ++seed) {
        CAPTURE(seed);
        test::RandomText random(seed);
        const BpeCodec codec = BpeCodec::train(random.letters(400, 3), upTo(60));
        for (const uint32_t length : {1, 2, 3, 17, 64, 65, 127}) {
            std::string word;
            while (word.size() < length) word += static_cast<char>('a' + random.below(3));
            CHECK(codec.encode(word) == encodedNaively(codec, word));
        }
    }
}

TEST_CASE("what is encoded comes back", "[text]") {
    test::RandomText corpus(1);
    const BpeCodec codec = BpeCodec::train(corpus.utf8(2000), upTo(300));
    CHECK(codec.merges().size() > 100);
    for (uint64_t seed = 0; seed < 60; ++seed) {
        CAPTURE(seed);
        test::RandomText random(seed);
        const std::string text = random.utf8(seed), bytes = random.bytes(seed);
        CHECK(codec.decodeBytes(codec.encode(text)) == text);
        CHECK(codec.decodeBytes(codec.encode(bytes)) == repairUtf8(bytes));
        auto marked = codec.encode(text, true, true);
        REQUIRE(marked.size() >= 2);
        CHECK(marked.front() == 1);
        CHECK(marked.back() == 2);
        CHECK(std::vector(marked.begin() + 1, marked.end() - 1) == codec.encode(text));
    }
}

TEST_CASE("a trained vocabulary is specials, bytes and merges", "[text]") {
    const BpeCodec codec = BpeCodec::train("the the then");
    CHECK(codec.name() == "bpe");
    CHECK(codec.vocabSize() == 263);  // th, the, Gthe: "then" is there once
    CHECK(codec.idLimit() == codec.vocabSize());
    CHECK(codec.token(0) == "<unk>");
    CHECK(codec.bos() == 1u);
    CHECK(codec.eos() == 2u);
    CHECK(codec.pad() == 3u);
    CHECK(codec.token(4) == "!");
    CHECK(codec.token(192) == "\u0100");
    CHECK(codec.token(259) == "\u0143");
    CHECK(codec.token(260) == "th");
    CHECK(codec.token(262) == "\u0120the");
    CHECK_FALSE(codec.token(263));
    CHECK(codec.encode("the") == std::vector<uint32_t>{261});
    CHECK(codec.encode("").empty());
    CHECK(codec.encode("", true, true) == std::vector<uint32_t>{1, 2});

    const BpeCodec none = BpeCodec::train("");
    CHECK(none.vocabSize() == 260);
    CHECK(BpeCodec::train("aa aa", upTo(0)).vocabSize() == 260);
    CHECK(BpeCodec::train("ab", upTo(9, 0)).vocabSize() == 261);  // frequency 0 is 1
    CHECK(BpeCodec::train(std::span<const std::string_view>()).encode("a").size() == 1);
}

TEST_CASE("special tokens can have other names", "[text]") {
    const SpecialNames special{.unk = "<unk>", .bos = "<s>", .eos = "</s>", .pad = "<s>"};
    const BpeCodec codec = BpeCodec::train("aa aa", {.merges = 5, .min_frequency = 2, .special = special});
    CHECK(codec.vocabSize() == 260);  // bos and pad are one
    CHECK(codec.pad() == codec.bos());
    const auto other = BpeCodec::parse("x", codec.json());
    REQUIRE(other);
    CHECK_FALSE(other.value().bos());
    CHECK(other.value().encode("aa", true, true) == codec.encode("aa"));
}

TEST_CASE("names that every object of the reference's language has are no tokens", "[text]") {
    const BpeCodec codec = BpeCodec::train("constructor constructor constructors", upTo(80));
    CHECK_FALSE(codec.id("constructor"));
    CHECK(codec.encode("constructor").size() == 11);
    CHECK(codec.decode(codec.encode("constructor")) == "constructor");
}

TEST_CASE("long words take no long time", "[text]") {
    const BpeCodec codec = BpeCodec::train(std::string(100000, 'a'), upTo(12));
    CHECK(codec.merges().size() == 12);
    CHECK(codec.encode(std::string(1 << 17, 'a')).size() == 1 << 5);
    CHECK(codec.decode(codec.encode(std::string(99991, 'a'))) == std::string(99991, 'a'));
    CHECK(codec.encode(std::string(100000, ' ')).size() == 100000);
}

TEST_CASE("ids are padded and cut", "[text]") {
    const std::vector<uint32_t> ids = {5, 6};
    CHECK(padOrTruncate(ids, 4, 3) == std::vector<uint32_t>{5, 6, 3, 3});
    CHECK(padOrTruncate(ids, 4, 3, PadSide::left) == std::vector<uint32_t>{3, 3, 5, 6});
    CHECK(padOrTruncate(ids, 2, 3) == ids);
    CHECK(padOrTruncate(ids, 1, 3, PadSide::left) == std::vector<uint32_t>{5});
    CHECK(padOrTruncate(ids, 0, 3).empty());
    CHECK(padOrTruncate({}, 2, 9) == std::vector<uint32_t>{9, 9});
}

TEST_CASE("codecs are saved and opened", "[text]") {
    const test::Folder folder;
    const BpeCodec trained = BpeCodec::train("\"the\" \\the\\ the\u4e16 \u4e16\u4e16", upTo(20));
    const std::string text = "\"the\" \\theatre\\ \u4e16\u4e16", path = folder / "tokenizer.json";
    REQUIRE(trained.save(path));
    for (const std::string& name : {path, folder.path()}) {
        auto codec = openCodec(name);
        REQUIRE(codec);
        CHECK(codec.value()->name() == path);
        CHECK(codec.value()->vocabSize() == trained.vocabSize());
        CHECK(codec.value()->eos() == trained.eos());
        CHECK(codec.value()->encode(text, true) == trained.encode(text, true));
    }
    CHECK(BpeCodec::load(path).value().json() == trained.json());
    CHECK(openCodec("bytes").value()->name() == "bytes");
    CHECK(openCodec(folder / "missing.json").error().code == ErrorCode::io);
}

TEST_CASE("a tokenizer is read from a vocabulary and lines of merges", "[text]") {
    const test::Folder folder;
    const auto write = [&](const char* name, std::string_view text) {
        REQUIRE(writeFile(folder / name, std::as_bytes(std::span(text))));
    };
    write("vocab.json", R"({"a":5,"b":7,"ab":1,"#":2,"# b":3,"<|endoftext|>":9})");
    write("merges.txt", "\xef\xbb\xbf#version: 0.2\r\n\n  a b \r\n \n# b\na a");
    auto codec = openCodec(folder.path());
    REQUIRE(codec);
    CHECK(codec.value()->vocabSize() == 6);
    CHECK(codec.value()->idLimit() == 10);
    CHECK(codec.value()->pad() == 9u);
    CHECK_FALSE(codec.value()->bos());
    CHECK(codec.value()->encode("aabc#", true, true) == std::vector<uint32_t>{5, 1, 2});  // c vanishes
    CHECK(codec.value()->decode(std::vector<uint32_t>{1, 4, 9, 7}) == "ab<|endoftext|>b");

    write("merges.txt", "a b\na  b\n");
    CHECK(openCodec(folder.path()).error().detail ==
          folder / "merges.txt" + ": line 2 is \"a  b\", must be two tokens with a space between");
    write("merges.txt", "a b\nb c\nc zz");
    CHECK(openCodec(folder.path()).error().detail ==
          folder / "merges.txt" + ": merges[2] joins \"zz\", which is no token and no earlier merge");
    write("merges.txt", "a \xff");
    CHECK(openCodec(folder.path()).error().detail == folder / "merges.txt" + ": the merges are not UTF-8 at byte 2");
    write("merges.txt", "");
    CHECK(openCodec(folder.path()));
}
