#include "engine/formats/shard_index.h"

#include <fmt/format.h>

#include <unordered_map>

#include "engine/formats/checked.h"
#include "engine/formats/safetensors_files.h"
#include "engine/formats/strict_json.h"

namespace vkmoe::formats {
namespace {

bool isPlainName(std::string_view name) {
    constexpr std::string_view kEnd = ".safetensors";
    if (!name.ends_with(kEnd) || name.size() == kEnd.size() || name.size() > 255 || name.front() == '.') return false;
    for (const char c : name)
        if (c == '/' || c == '\\' || c == ':' || static_cast<unsigned char>(c) < 0x20 || c == 0x7f) return false;
    return true;
}

class IndexVisitor : public JsonVisitor {
public:
    explicit IndexVisitor(ShardIndex& index) : index_(index) {}

    Result<void> startObject() override {
        if (level_ == 1 && part_ == Part::map) in_map_ = true;
        if (level_ == 2 && in_map_) return wrong("an object");
        ++level_;
        return {};
    }
    Result<void> endObject() override {
        if (--level_ == 1) in_map_ = false;
        return {};
    }
    Result<void> startArray() override {
        if (level_ == 0) return refused("the index is an array, must be an object");
        if (part_ == Part::map) return wrong("an array");
        ++level_;
        return {};
    }
    Result<void> endArray() override {
        --level_;
        return {};
    }
    Result<void> key(std::string_view name) override {
        if (level_ == 1) return part(name);
        if (in_map_) tensor_ = name;
        return {};
    }
    Result<void> scalar(const JsonScalar& value) override {
        if (level_ == 0) return refused(fmt::format("the index is {}, must be an object", value.shown()));
        if (level_ == 1 || (in_map_ && value.kind != JsonScalar::Kind::string)) return wrong(value.shown());
        return in_map_ ? map(value.text) : Result<void>();
    }

    bool hasMap() const { return had_map_; }

private:
    enum class Part { metadata, map };

    Result<void> wrong(const std::string& found) const {
        if (in_map_) return refused(fmt::format("weight_map {} is {}, must be a file name", shown(tensor_), found));
        return refused(
            fmt::format("{} is {}, must be an object", part_ == Part::map ? "weight_map" : "metadata", found));
    }
    Result<void> part(std::string_view name) {
        bool& had = name == "weight_map" ? had_map_ : had_metadata_;
        if (name != "weight_map" && name != "metadata")
            return refused(fmt::format("the index has a field {}, which is unknown", shown(name)));
        if (had) return refused(fmt::format("the index has {} twice", name));
        had = true;
        part_ = name == "weight_map" ? Part::map : Part::metadata;
        return {};
    }
    Result<void> map(std::string_view file) {
        if (!isPlainName(file))
            return refused(fmt::format("weight_map {} is \"{}\", must be the plain name of a .safetensors file",
                                       shown(tensor_), shown(file)));
        if (index_.tensors.size() == kSafetensorsMaxTensors)
            return refused(fmt::format("weight_map has more than {} tensors", kSafetensorsMaxTensors));
        const auto [at, added] = numbers_.try_emplace(std::string(file), static_cast<uint32_t>(index_.files.size()));
        if (added) index_.files.emplace_back(file);
        if (index_.files.size() > kMaxShards)
            return refused(fmt::format("weight_map names more than {} files", kMaxShards));
        index_.tensors.add(tensor_);
        index_.file_of.push_back(at->second);
        return {};
    }

    ShardIndex& index_;
    uint32_t level_ = 0;
    Part part_ = Part::metadata;
    bool in_map_ = false, had_map_ = false, had_metadata_ = false;
    std::string tensor_;
    std::unordered_map<std::string, uint32_t> numbers_;
};

}  // namespace

Result<ShardIndex> ShardIndex::read(const ByteSource& file) {
    if (file.size() == 0) return inputError(file.name(), "is empty; an index is a JSON object with a weight_map");
    if (file.size() > kMaxIndexBytes)
        return inputError(file.name(), fmt::format("the length of the index is {}, at most {} are read", file.size(),
                                                   kMaxIndexBytes));
    ShardIndex index;
    IndexVisitor visitor(index);
    VKMOE_CHECK(readJson(file, 0, file.size(), "the index", visitor));
    if (!visitor.hasMap()) return inputError(file.name(), "the index has no weight_map");
    if (index.files.empty()) return inputError(file.name(), "weight_map is empty");
    if (const auto twice = index.tensors.index())
        return inputError(file.name(), fmt::format("weight_map has {} twice", shown(index.tensors[*twice])));
    return index;
}

}  // namespace vkmoe::formats
