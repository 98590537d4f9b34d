#include "engine/formats/manifest.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>

#include "engine/formats/checked.h"
#include "engine/formats/strict_json.h"

namespace vkmoe::formats {
namespace {

constexpr const char* kWhat = "the manifest";

// The values that are kept; of others there may be any number.
constexpr const char* kKeys[] = {"schema",           "name",
                                 "version",          "modelType",
                                 "modality",         "config",
                                 "paramCount",       "checksum",
                                 "checkpointFormat", "checkpointFp16",
                                 "checkpointBytes",  "codecFormat",
                                 "codecChecksum",    "card",
                                 "createdAt",        "config.modelDim",
                                 "config.hiddenDim", "config.numExperts",
                                 "config.topK",      "config.seed",
                                 "config.vocabSize", "config.dModel",
                                 "config.numLayers", "config.convKernel",
                                 "card.description", "card.license",
                                 "card.author",      "card.trainingSummary"};

// The number as JavaScript reads it; what is too large for a double is infinite.
double toDouble(std::string_view text) {
    double number = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    const bool too_large =
        error == std::errc::result_out_of_range && text.find("e-") == text.npos && text.find("E-") == text.npos;
    return too_large ? HUGE_VAL : number;
}

ManifestValue valueOf(const JsonScalar& scalar) {
    using Kind = ManifestValue::Kind;
    ManifestValue value;
    value.shown = scalar.shown();
    switch (scalar.kind) {
        case JsonScalar::Kind::integer:
            value.kind = Kind::number;
            value.number = double(scalar.integer);
            break;
        case JsonScalar::Kind::number:
            value.kind = Kind::number;
            value.number = toDouble(scalar.text);
            break;
        case JsonScalar::Kind::boolean:
            value.kind = Kind::boolean;
            value.boolean = scalar.boolean;
            break;
        default:
            value.kind = Kind::string;
            value.text = scalar.text;
    }
    return value;
}

// Keeps what is asked for from the events of the JSON.
class ManifestVisitor : public JsonVisitor {
public:
    explicit ManifestVisitor(std::map<std::string, ManifestValue>& values) : values_(values) {}

    Result<void> startObject() override { return open("an object"); }
    Result<void> startArray() override {
        if (depth_ == 0) return notAnObject("an array");
        return open("an array");
    }
    Result<void> endObject() override { return close(); }
    Result<void> endArray() override { return close(); }
    Result<void> key(std::string_view name) override {
        if (depth_ == 1) key_ = name;
        if (depth_ == 2) second_ = name;
        return {};
    }
    Result<void> scalar(const JsonScalar& scalar) override {
        if (depth_ == 0) return notAnObject(scalar.shown());
        if (scalar.kind == JsonScalar::Kind::null) return {};
        return keep(valueOf(scalar));
    }

private:
    static Result<void> notAnObject(const std::string& found) {
        return Error{ErrorCode::bad_input, fmt::format("{} is {}, must be an object", kWhat, found)};
    }
    Result<void> open(const char* what) {
        if (depth_ > 0) VKMOE_CHECK(keep({.shown = what}));
        ++depth_;
        second_.clear();  // an array's elements have no names
        return {};
    }
    Result<void> close() {
        --depth_;
        return {};
    }
    Result<void> keep(ManifestValue value) {
        if (depth_ > 2) return {};
        const std::string name = depth_ == 1 ? key_ : key_ + "." + second_;
        if (std::find(std::begin(kKeys), std::end(kKeys), name) == std::end(kKeys)) return {};
        if (values_.emplace(name, std::move(value)).second) return {};
        return Error{ErrorCode::bad_input, fmt::format("{} has two values of {}", kWhat, name)};
    }

    std::map<std::string, ManifestValue>& values_;
    uint32_t depth_ = 0;
    std::string key_, second_;
};

}  // namespace

Result<Manifest> Manifest::read(const ByteSource& file, uint64_t offset, uint64_t bytes) {
    if (bytes > kMaxManifestBytes)
        return inputError(file.name(),
                          fmt::format("{} has {} bytes, at most {} are read", kWhat, bytes, kMaxManifestBytes));
    Manifest manifest;
    manifest.text_.resize(bytes);
    VKMOE_CHECK(file.read(offset, std::as_writable_bytes(std::span(manifest.text_))));
    ManifestVisitor visitor(manifest.values_);
    VKMOE_CHECK(readJson(file, offset, bytes, kWhat, visitor, {.depth = kManifestLevels}));
    return manifest;
}

const ManifestValue* Manifest::find(const std::string& key) const {
    const auto found = values_.find(key);
    return found == values_.end() ? nullptr : &found->second;
}

std::string Manifest::string(const std::string& key) const {
    const ManifestValue* value = find(key);
    return value == nullptr ? "" : value->text;
}

std::optional<double> Manifest::number(const std::string& key) const {
    const ManifestValue* value = find(key);
    if (value == nullptr || value->kind != ManifestValue::Kind::number) return {};
    return value->number;
}

std::string Manifest::shown(const std::string& key) const {
    const ManifestValue* value = find(key);
    return value == nullptr ? "undefined" : value->shown;
}

}  // namespace vkmoe::formats
