// Manifest: the JSON at the front of a model package, as the values that readers look at.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "host/file.h"
#include "host/result.h"

namespace vkmoe::formats {

inline constexpr uint32_t kManifestLevels = 64;
inline constexpr uint64_t kMaxManifestBytes = uint64_t{4} << 20;

struct ManifestValue {
    enum class Kind { number, string, boolean, other };  // other: an object or an array
    Kind kind = Kind::other;
    double number = 0;
    bool boolean = false;
    std::string text;   // of a string
    std::string shown;  // for sentences
};

class Manifest {
public:
    // Reads `bytes` bytes of `file` from `offset`, which the file has. What is no JSON object, or names one of the
    // values below twice, is an error.
    static Result<Manifest> read(const ByteSource& file, uint64_t offset, uint64_t bytes);

    // "schema", "checksum" ..., "config.topK", "card.description"; null if it is missing or null. What is asked for
    // here is kept: the keys of the package format, those of "config" and "card".
    const ManifestValue* find(const std::string& key) const;

    std::string string(const std::string& key) const;  // empty if it is missing or no string
    std::optional<double> number(const std::string& key) const;
    std::string shown(const std::string& key) const;  // "undefined" if it is missing

    const std::string& text() const { return text_; }  // the JSON, byte for byte

private:
    std::string text_;
    std::map<std::string, ManifestValue> values_;
};

}  // namespace vkmoe::formats
