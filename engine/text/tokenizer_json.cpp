#include "engine/text/tokenizer_json.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "engine/formats/checked.h"
#include "engine/formats/strict_json.h"
#include "engine/text/utf8.h"

namespace vkmoe::text {
namespace {

using formats::JsonScalar;
using formats::refused;
using formats::shown;

// Other parts of the file nest deeper than weights' headers, and tokens are longer than tensors' names.
constexpr formats::JsonLimits kLimits = {.depth = 64, .name_bytes = formats::kJsonStringBytes};

std::optional<BpeCodec::Merge> splitMerge(std::string_view text) {
    const size_t space = text.find(' ');
    if (space == text.npos || space == 0 || space + 1 == text.size() || text.find(' ', space + 1) != text.npos)
        return {};
    return BpeCodec::Merge(text.substr(0, space), text.substr(space + 1));
}

Result<void> roomFor(const char* what, size_t count) {
    if (count < BpeCodec::kMaxIds) return {};
    return refused(fmt::format("{} has more than {} entries", what, BpeCodec::kMaxIds));
}

class TokenizerVisitor : public formats::JsonVisitor {
public:
    enum class Place { start, root, model, vocab, merges, pair };

    explicit TokenizerVisitor(TokenizerParts& parts, bool vocabulary_alone = false)
        : parts_(parts), vocabulary_alone_(vocabulary_alone), has_vocab_(vocabulary_alone) {}

    Result<void> startObject() override {
        if (skipped_ > 0) return ++skipped_, Result<void>();
        if (place_ == Place::start) return enter(vocabulary_alone_ ? Place::vocab : Place::root);
        if (!inFields()) return wrong("an object");
        if (key_ == "merges") return wrong("an object");
        if (key_ == "vocab") return enter(Place::vocab);
        if (key_ == "model" && place_ == Place::root) return enter(Place::model);
        return ++skipped_, Result<void>();
    }
    Result<void> startArray() override {
        if (skipped_ > 0) return ++skipped_, Result<void>();
        if (place_ == Place::merges) return pair_.clear(), enter(Place::pair);
        if (!inFields() || isPart("vocab") || isModel()) return wrong("an array");
        if (key_ == "merges") return enter(Place::merges);
        return ++skipped_, Result<void>();
    }
    Result<void> endObject() override { return leave(); }
    Result<void> endArray() override {
        if (skipped_ == 0 && place_ == Place::pair) VKMOE_CHECK(endPair());
        return leave();
    }
    Result<void> key(std::string_view name) override {
        if (skipped_ > 0) return {};
        key_ = name;
        if (place_ == Place::vocab) return {};
        if (isPart("vocab")) return once(has_vocab_);
        if (isPart("merges")) return once(has_merges_);
        return isModel() ? once(has_model_) : Result<void>();
    }
    Result<void> scalar(const JsonScalar& value) override {
        if (skipped_ > 0) return {};
        if (place_ == Place::vocab) return token(value);
        if (place_ == Place::merges) return merge(value);
        if (place_ == Place::pair) return half(value);
        if (place_ == Place::start || isPart("vocab") || isPart("merges") || isModel()) return wrong(value.shown());
        return {};
    }

    bool hasVocab() const { return has_vocab_; }
    bool hasMerges() const { return has_merges_; }

private:
    bool inFields() const { return place_ == Place::root || place_ == Place::model; }
    bool isPart(const char* name) const { return inFields() && key_ == name; }
    bool isModel() const { return place_ == Place::root && key_ == "model"; }

    Result<void> enter(Place place) {
        outer_.push_back(place_);
        place_ = place;
        return {};
    }
    Result<void> leave() {
        if (skipped_ > 0) return --skipped_, Result<void>();
        place_ = outer_.back();
        outer_.pop_back();
        return {};
    }
    Result<void> once(bool& had) const {
        if (had) return refused(fmt::format("the tokenizer has {} twice", key_));
        had = true;
        return {};
    }

    Result<void> wrong(const std::string& found) const {
        switch (place_) {
            case Place::start:
                return refused(fmt::format("the {} is {}, must be an object",
                                           vocabulary_alone_ ? "vocabulary" : "tokenizer", found));
            case Place::vocab:
                return refused(
                    fmt::format("vocab \"{}\" is {}, must be an id below {}", shown(key_), found, BpeCodec::kMaxIds));
            case Place::merges:
            case Place::pair:
                return refused(fmt::format("merges[{}] is {}, must be two tokens: \"a b\" or [\"a\", \"b\"]",
                                           parts_.merges.size(), found));
            default:
                return refused(
                    fmt::format("{} is {}, must be {}", key_, found, key_ == "merges" ? "an array" : "an object"));
        }
    }
    Result<void> token(const JsonScalar& value) {
        if (value.kind != JsonScalar::Kind::integer || value.integer >= BpeCodec::kMaxIds) return wrong(value.shown());
        VKMOE_CHECK(roomFor("vocab", parts_.vocabulary.size()));
        parts_.vocabulary.emplace_back(key_, static_cast<uint32_t>(value.integer));
        return {};
    }
    Result<void> merge(const JsonScalar& value) {
        VKMOE_CHECK(roomFor("merges", parts_.merges.size()));
        std::optional<BpeCodec::Merge> merge;
        if (value.kind == JsonScalar::Kind::string) merge = splitMerge(value.text);
        if (!merge) return wrong(value.shown());
        parts_.merges.push_back(std::move(*merge));
        return {};
    }
    Result<void> half(const JsonScalar& value) {
        if (value.kind != JsonScalar::Kind::string) return wrong("an array with " + value.shown());
        if (pair_.size() == 2) return wrong("an array of more than 2 tokens");
        pair_.emplace_back(value.text);
        return {};
    }
    Result<void> endPair() {
        if (pair_.size() != 2) return wrong(fmt::format("an array of {}", pair_.size()));
        VKMOE_CHECK(roomFor("merges", parts_.merges.size()));
        parts_.merges.emplace_back(std::move(pair_[0]), std::move(pair_[1]));
        return {};
    }

    TokenizerParts& parts_;
    const bool vocabulary_alone_;
    Place place_ = Place::start;
    std::vector<Place> outer_;
    uint32_t skipped_ = 0;  // levels below a field that is not read
    std::string key_;
    bool has_model_ = false, has_vocab_ = false, has_merges_ = false;
    std::vector<std::string> pair_;
};

Result<void> checkSize(const ByteSource& file) {
    if (file.size() == 0) return formats::inputError(file.name(), "is empty; a tokenizer is a JSON object");
    if (file.size() <= BpeCodec::kMaxFileBytes) return {};
    return formats::inputError(file.name(), fmt::format("the length of the tokenizer is {}, at most {} are read",
                                                        file.size(), BpeCodec::kMaxFileBytes));
}

std::string_view trimmed(std::string_view line) {
    constexpr std::string_view kBlank = " \t\r\v\f";
    const size_t begin = line.find_first_not_of(kBlank);
    if (begin == line.npos) return {};
    return line.substr(begin, line.find_last_not_of(kBlank) + 1 - begin);
}

}  // namespace

Result<TokenizerParts> readTokenizer(const ByteSource& file) {
    VKMOE_CHECK(checkSize(file));
    TokenizerParts parts;
    TokenizerVisitor visitor(parts);
    VKMOE_CHECK(formats::readJson(file, 0, file.size(), "the tokenizer", visitor, kLimits));
    if (!visitor.hasVocab()) return formats::inputError(file.name(), "the tokenizer has no model.vocab");
    if (!visitor.hasMerges()) return formats::inputError(file.name(), "the tokenizer has no model.merges");
    return parts;
}

Result<std::vector<BpeCodec::Token>> readVocabulary(const ByteSource& file) {
    VKMOE_CHECK(checkSize(file));
    TokenizerParts parts;
    TokenizerVisitor visitor(parts, true);
    VKMOE_CHECK(formats::readJson(file, 0, file.size(), "the vocabulary", visitor, kLimits));
    return std::move(parts.vocabulary);
}

Result<std::vector<BpeCodec::Merge>> readMergeLines(const std::string& name, std::string_view text) {
    if (const auto offset = checkUtf8(text))
        return formats::inputError(name, fmt::format("the merges are not UTF-8 at byte {}", *offset));
    if (text.starts_with(kByteOrderMark)) text.remove_prefix(kByteOrderMark.size());
    std::vector<BpeCodec::Merge> merges;
    for (uint64_t number = 1; !text.empty(); ++number) {
        const std::string_view line = text.substr(0, text.find('\n'));
        text.remove_prefix(std::min(text.size(), line.size() + 1));
        if (line.starts_with('#') || trimmed(line).empty()) continue;
        std::optional<BpeCodec::Merge> merge = splitMerge(trimmed(line));
        if (!merge)
            return formats::inputError(
                name, fmt::format("line {} is \"{}\", must be two tokens with a space between", number, shown(line)));
        if (auto room = roomFor("the list", merges.size()); !room) return formats::inFile(name, room.error());
        merges.push_back(std::move(*merge));
    }
    return merges;
}

}  // namespace vkmoe::text
