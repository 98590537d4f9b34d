// What the reference engine's tokenizer learned, encoded and decoded (tests/golden/data/text).
#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <fstream>
#include <optional>
#include <sstream>

#include "engine/text/pre_tokens.h"
#include "engine/text/utf8.h"
#include "vkmoe/text_codec.h"

using namespace vkmoe;

namespace {

std::vector<std::string> fields(const std::string& line) {
    std::vector<std::string> out(1);
    for (const char c : line)
        if (c == ' ')
            out.emplace_back();
        else
            out.back() += c;
    return out;
}

std::string unhex(const std::string& hex) {
    std::string text;
    for (size_t i = 0; i + 1 < hex.size(); i += 2) text += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
    return text;
}

std::vector<uint32_t> idsOf(const std::string& list) {
    std::vector<uint32_t> ids;
    std::istringstream text(list);
    for (std::string id; std::getline(text, id, ',');) ids.push_back(static_cast<uint32_t>(std::stoul(id)));
    return ids;
}

std::vector<BpeCodec::Merge> firstOfEach(std::span<const BpeCodec::Merge> merges) {
    std::vector<BpeCodec::Merge> out;
    for (const auto& merge : merges)
        if (std::find(out.begin(), out.end(), merge) == out.end()) out.push_back(merge);
    return out;
}

// Plays the recording line by line.
class Recording {
public:
    void play(const std::vector<std::string>& line) {
        const char kind = line[0].front();
        if (kind == 'T') return corpus_.push_back(unhex(line[1]));
        if (kind == 'C') return startTraining(line);
        if (kind == 'J') return read(unhex(line[1]));
        if (training_) train();
        if (kind == 'V') CHECK(codec_->vocabSize() == std::stoul(line[1]));
        if (kind == 'M') merge(line);
        if (kind == 'E') CHECK(codec_->encode(unhex(line[1])) == idsOf(line[2]));
        if (kind == 'D') CHECK(codec_->decode(idsOf(line[1])) == unhex(line[2]));
        checked += kind == 'E' || kind == 'D';
    }
    int checked = 0;

private:
    void startTraining(const std::vector<std::string>& line) {
        corpus_.clear();
        training_ = BpeTraining{
            .merges = static_cast<uint32_t>(std::stoul(line[1])), .min_frequency = std::stoul(line[2]), .special = {}};
    }
    void train() {
        const std::vector<std::string_view> corpus(corpus_.begin(), corpus_.end());
        codec_ = BpeCodec::train(corpus, *training_);
        merges_ = firstOfEach(codec_->merges());
        next_merge_ = 0;
        training_.reset();
    }
    void read(const std::string& json) {
        const SpecialNames special{.unk = "<unk>", .bos = "<s>", .eos = "", .pad = ""};
        auto codec = BpeCodec::parse("recorded", json, special);
        REQUIRE(codec);
        CHECK(codec->bos() == codec->id("<s>"));
        auto again = BpeCodec::parse("saved", codec->json(), special);
        REQUIRE(again);
        CHECK(again->json() == codec->json());
        codec_ = again.value();
    }
    void merge(const std::vector<std::string>& line) {
        REQUIRE(next_merge_ < merges_.size());
        CHECK(merges_[next_merge_++] == BpeCodec::Merge(line[1], line[2]));
    }

    std::optional<BpeTraining> training_;
    std::vector<std::string> corpus_;
    std::optional<BpeCodec> codec_;
    std::vector<BpeCodec::Merge> merges_;
    size_t next_merge_ = 0;
};

std::vector<std::vector<std::string>> recordedLines() {
    std::ifstream file(VKMOE_TEST_DATA "/text/bpe.txt");
    std::vector<std::vector<std::string>> lines;
    for (std::string line; std::getline(file, line);) lines.push_back(fields(line));
    return lines;
}

// L, N, S or O, from how a character joins its neighbours.
char classOf(char32_t code) {
    std::string c;
    text::appendChar(code, c);
    const auto joins = [&](const char* before) { return text::preTokenBytes(before + c) == 1 + c.size(); };
    if (joins("x")) return 'L';
    if (joins("1")) return 'N';
    return joins("!") && code != '\r' && code != '\n' ? 'O' : 'S';
}

}  // namespace

TEST_CASE("tokenizers learn, encode and decode what the reference does", "[text][golden]") {
    const auto lines = recordedLines();
    REQUIRE(lines.size() > 700);
    Recording recording;
    for (size_t i = 0; i < lines.size(); ++i) {
        CAPTURE(i);
        if (lines[i][0] != "U") recording.play(lines[i]);
    }
    CHECK(recording.checked > 150);
}

TEST_CASE("every character is of the class that it has in the reference", "[text][golden]") {
    size_t letters = 0, numbers = 0, spaces = 0, others = 0;
    uint32_t sum = 0x811c9dc5;
    for (char32_t c = 0; c < 0x110000; c = c == 0xd7ff ? 0xe000 : c + 1) {
        const char kind = classOf(c);
        ++(kind == 'L' ? letters : kind == 'N' ? numbers : kind == 'S' ? spaces : others);
        sum = (sum ^ static_cast<unsigned char>(kind)) * 0x01000193u;
    }
    std::ostringstream found;
    found << "U " << letters << ' ' << numbers << ' ' << spaces << ' ' << others << ' ' << sum;
    CHECK(fields(found.str()) == recordedLines().back());
}
