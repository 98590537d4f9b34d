#include "engine/formats/strict_json.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <iterator>
#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include "engine/formats/checked.h"

namespace vkmoe::formats {
namespace {

constexpr uint64_t kJsonPiece = uint64_t{1} << 16;
constexpr uint64_t kNumberBytes = 64, kSpaceBytes = 1024;  // of a run

// Hands out the text byte by byte, of long runs of space the start. It ends early where a token is longer than the
// parser may keep, or cannot be read.
class Feed {
public:
    Feed(const ByteSource& file, uint64_t offset, uint64_t bytes)
        : file_(file), start_(offset), offset_(offset), left_(bytes), piece_(std::min(bytes, kJsonPiece)) {
        refill();
    }

    bool done() const { return at_ == end_; }
    char current() const { return *at_; }
    void advance() {
        if (++at_ == end_) refill();
    }
    const std::optional<Error>& error() const { return error_; }

    // Where in the text the byte is that was handed out as number `position`.
    uint64_t placeOf(uint64_t position) const {
        uint64_t left_out = 0;
        for (auto gap = gaps_.begin(); gap != gaps_.end() && gap->position < position; ++gap) left_out = gap->left_out;
        return position + left_out;
    }

private:
    // After `position` bytes, `left_out` were left out so far.
    struct Gap {
        uint64_t position = 0, left_out = 0;
    };

    void refill() {
        at_ = end_ = piece_.data();
        while (at_ == end_) {  // a piece may be nothing but space
            const std::span piece = std::span(piece_).first(error_ ? 0 : std::min(left_, kJsonPiece));
            if (piece.empty()) return;
            if (auto read = file_.read(offset_, std::as_writable_bytes(piece)); !read) {
                error_ = std::move(read).error();
                return;
            }
            offset_ += piece.size();
            left_ -= piece.size();
            const size_t kept = watch(piece);
            end_ = at_ + kept;
            handed_out_ += kept;
        }
    }

    // Moves the bytes that are handed out to the front, and says how many: none after one that makes a token too long.
    size_t watch(std::span<char> piece) {
        size_t kept = 0;
        for (size_t i = 0; i < piece.size(); ++i) {
            const char c = piece[i];
            if (c == 0) {
                const uint64_t place = offset_ - piece.size() + i - start_ + 1;
                return refuse(fmt::format("a zero byte is in JSON, its byte {}", place)), kept;
            }
            in_string_ ? watchString(c) : watchOther(c);
            if (in_string_ && run_ > kJsonStringBytes)
                return refuse(fmt::format("a string in JSON has more than {} bytes", kJsonStringBytes)), kept;
            if (!in_string_ && run_ > kNumberBytes)
                return refuse(fmt::format("a number in JSON has more than {} bytes", kNumberBytes)), kept;
            if (space_ > kSpaceBytes)
                leaveOut(handed_out_ + kept);
            else
                piece[kept++] = c;
        }
        return kept;
    }
    void leaveOut(uint64_t position) {
        if (gaps_.empty() || gaps_.back().position != position)
            gaps_.push_back({position, gaps_.empty() ? 0 : gaps_.back().left_out});
        ++gaps_.back().left_out;
    }
    void watchString(char c) {
        ++run_;
        if (c == '"' && !escaped_) {
            in_string_ = false;
            run_ = 0;
        }
        escaped_ = c == '\\' && !escaped_;
    }
    void watchOther(char c) {
        const bool number = (c >= '0' && c <= '9') || c == '-' || c == '+' || c == '.' || c == 'e' || c == 'E';
        run_ = number ? run_ + 1 : 0;
        in_string_ = c == '"';
        space_ = c == ' ' || c == '\t' || c == '\n' || c == '\r' ? space_ + 1 : 0;
    }
    void refuse(const std::string& detail) { error_ = inputError(file_.name(), detail); }

    const ByteSource& file_;
    uint64_t start_, offset_, left_;
    std::vector<char> piece_;
    const char* at_ = nullptr;
    const char* end_ = nullptr;
    bool in_string_ = false, escaped_ = false;
    uint64_t run_ = 0, space_ = 0, handed_out_ = 0;
    std::vector<Gap> gaps_;
    std::optional<Error> error_;
};

// An input iterator over a feed; without one, the end.
class FeedIterator {
public:
    using iterator_category = std::input_iterator_tag;
    using value_type = char;
    using difference_type = std::ptrdiff_t;
    using pointer = const char*;
    using reference = char;

    explicit FeedIterator(Feed* feed = nullptr) : feed_(feed) {}
    char operator*() const { return feed_->current(); }
    FeedIterator& operator++() {
        feed_->advance();
        return *this;
    }
    void operator++(int) { feed_->advance(); }
    bool operator==(const FeedIterator& other) const { return done() == other.done(); }

private:
    bool done() const { return feed_ == nullptr || feed_->done(); }

    Feed* feed_;
};

// The parser's events, with the limits, to the visitor.
class Events {
public:
    using number_integer_t = nlohmann::json::number_integer_t;
    using number_unsigned_t = nlohmann::json::number_unsigned_t;
    using number_float_t = nlohmann::json::number_float_t;
    using string_t = nlohmann::json::string_t;
    using binary_t = nlohmann::json::binary_t;

    Events(const Feed& feed, const char* what, JsonVisitor& visitor, const JsonLimits& limits)
        : feed_(feed), what_(what), visitor_(visitor), limits_(limits) {}

    bool null() { return scalar({}); }
    bool boolean(bool value) { return scalar({.kind = JsonScalar::Kind::boolean, .boolean = value}); }
    bool number_unsigned(number_unsigned_t value) {
        return scalar({.kind = JsonScalar::Kind::integer, .integer = value});
    }
    bool number_integer(number_integer_t value) {
        const std::string text = value == 0 ? "-0" : std::to_string(value);
        return scalar({.kind = JsonScalar::Kind::number, .text = text});
    }
    bool number_float(number_float_t, const string_t& text) {
        return scalar({.kind = JsonScalar::Kind::number, .text = text});
    }
    bool string(const string_t& text) { return scalar({.kind = JsonScalar::Kind::string, .text = text}); }
    bool binary(binary_t&) { return false; }
    bool start_object(size_t) { return deeper() && keep(visitor_.startObject()); }
    bool end_object() { return --depth_, keep(visitor_.endObject()); }
    bool start_array(size_t) { return deeper() && keep(visitor_.startArray()); }
    bool end_array() { return --depth_, keep(visitor_.endArray()); }
    bool key(const string_t& name) {
        if (name.size() <= limits_.name_bytes) return keep(visitor_.key(name));
        return keep(Error{ErrorCode::bad_input, fmt::format("{} has a name of {} bytes, at most {} are read: {}", what_,
                                                            name.size(), limits_.name_bytes, shown(name))});
    }
    bool parse_error(size_t position, const std::string& token, const nlohmann::json::exception& error) {
        constexpr int kNumberOverflow = 406;  // of a double: the visitor knows whose number it is
        if (error.id == kNumberOverflow && !scalar({.kind = JsonScalar::Kind::number, .text = token})) return false;
        const bool utf8 = std::strstr(error.what(), "UTF-8") != nullptr;
        const char* wrong = error.id == kNumberOverflow ? "has a number that no double holds"
                            : utf8                      ? "is not UTF-8"
                                                        : "is no valid JSON";
        error_ =
            Error{ErrorCode::bad_input, fmt::format("{} {} at its byte {}", what_, wrong, feed_.placeOf(position))};
        return false;
    }

    const std::optional<Error>& error() const { return error_; }

private:
    bool deeper() {
        if (++depth_ <= limits_.depth) return true;
        return keep(Error{ErrorCode::bad_input, fmt::format("{} has more than {} levels", what_, limits_.depth)});
    }
    bool scalar(const JsonScalar& value) { return keep(visitor_.scalar(value)); }
    bool keep(Result<void> result) {
        if (!result) error_ = std::move(result).error();
        return !error_;
    }

    const Feed& feed_;
    const char* what_;
    JsonVisitor& visitor_;
    const JsonLimits& limits_;
    uint32_t depth_ = 0;
    std::optional<Error> error_;
};

}  // namespace

std::string JsonScalar::shown() const {
    switch (kind) {
        case Kind::null:
            return "null";
        case Kind::boolean:
            return boolean ? "true" : "false";
        case Kind::integer:
            return std::to_string(integer);
        case Kind::number:
            return std::string(text);
        case Kind::string:
            return fmt::format("\"{}\"", formats::shown(text));
    }
    return "?";
}

Result<void> readJson(const ByteSource& file, uint64_t offset, uint64_t bytes, const char* what, JsonVisitor& visitor,
                      const JsonLimits& limits) {
    Feed feed(file, offset, bytes);
    Events events(feed, what, visitor, limits);
    const bool parsed = nlohmann::json::sax_parse(FeedIterator(&feed), FeedIterator(), &events);
    if (feed.done() && feed.error()) return *feed.error();  // before that, what the visitor found is the reason
    if (events.error()) return inFile(file.name(), *events.error());
    if (feed.error()) return *feed.error();
    if (!parsed) return inputError(file.name(), fmt::format("{} is no valid JSON", what));
    return {};
}

Result<void> readJson(const std::string& file, std::string_view text, const char* what, JsonVisitor& visitor,
                      const JsonLimits& limits) {
    const auto bytes = std::as_bytes(std::span(text));
    const auto source = memorySource(file, {bytes.begin(), bytes.end()});
    return readJson(*source, 0, source->size(), what, visitor, limits);
}

}  // namespace vkmoe::formats
