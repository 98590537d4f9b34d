// StrictJson: reads JSON from bytes that nobody vouches for, as a stream of events. Nothing is kept but what the
// visitor keeps, so that memory does not grow with the text.
//
// Refused, with a sentence: what is no JSON or not UTF-8, zero bytes, anything after the value, more levels or longer
// names than the limits (4 and 256 bytes where a format sets no others), strings of more than 4 MiB, numbers that no
// double holds (the visitor sees them first: it knows whose they are). Duplicate names are the visitor's to refuse.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "host/file.h"
#include "host/result.h"

namespace vkmoe::formats {

inline constexpr uint32_t kJsonDepth = 4;
inline constexpr uint64_t kJsonNameBytes = 256;
inline constexpr uint64_t kJsonStringBytes = uint64_t{4} << 20;

struct JsonLimits {
    uint32_t depth = kJsonDepth;
    uint64_t name_bytes = kJsonNameBytes;
};

struct JsonScalar {
    enum class Kind {
        null,
        boolean,
        integer,  // 0 to 2^64-1, written without sign, point or exponent
        number,   // any other
        string
    };
    Kind kind = Kind::null;
    bool boolean = false;
    uint64_t integer = 0;
    std::string_view text;  // of a string its content, of a number as it is written; gone after the call

    // "4", "-1.5", "true", "a string" ..., for sentences that say what was found
    std::string shown() const;
};

// What happens to each event; an error ends the reading. Its sentence needs no file name.
class JsonVisitor {
public:
    virtual ~JsonVisitor() = default;
    virtual Result<void> startObject() = 0;
    virtual Result<void> endObject() = 0;
    virtual Result<void> startArray() = 0;
    virtual Result<void> endArray() = 0;
    virtual Result<void> key(std::string_view name) = 0;
    virtual Result<void> scalar(const JsonScalar& value) = 0;
};

// Reads `bytes` bytes of `file` from `offset`, which the file has. `what` calls them in sentences: "the header".
Result<void> readJson(const ByteSource& file, uint64_t offset, uint64_t bytes, const char* what, JsonVisitor& visitor,
                      const JsonLimits& limits = {});

// The same of a text that was found in `file`.
Result<void> readJson(const std::string& file, std::string_view text, const char* what, JsonVisitor& visitor,
                      const JsonLimits& limits = {});

}  // namespace vkmoe::formats
