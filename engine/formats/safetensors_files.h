// SafetensorsFiles: the tensors of one safetensors file, or of the many that a model.safetensors.index.json names, as
// one list over one range of bytes.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "engine/formats/safetensors.h"

namespace vkmoe::formats {

inline constexpr uint64_t kMaxShards = 1000;

// Opens the file of this name in the index's folder. The name is a plain file name.
using OpenShard = std::function<Result<std::shared_ptr<const ByteSource>>(const std::string& name)>;

class SafetensorsFiles {
public:
    static Result<SafetensorsFiles> open(std::shared_ptr<const ByteSource> file, const CheckName& check_name = {});

    // Reads {"metadata": {...}, "weight_map": {tensor: file}}. Every tensor of every file must be mapped to it and
    // every mapped tensor be there, so names are unique across files. Files are plain names that end in .safetensors.
    // metadata.total_size is not used: writers disagree about what it counts.
    static Result<SafetensorsFiles> openIndex(const ByteSource& index, const OpenShard& open_shard,
                                              const CheckName& check_name = {});

    size_t size() const { return first_.back(); }
    SafetensorsTensor at(size_t i) const;  // `offset` is that in `bytes()`
    const std::string& fileOf(size_t i) const { return files_[shardOf(i)].bytes->name(); }
    // Of all files, which must agree on what they say under one key.
    const std::map<std::string, std::string>& metadata() const { return metadata_; }

    // All files' bytes, one file after the other; its name is that of what was opened, nameAt() a file's.
    const std::shared_ptr<const ByteSource>& bytes() const { return bytes_; }

private:
    struct File {
        std::shared_ptr<const ByteSource> bytes;
        SafetensorsHeader header;
        uint64_t offset = 0;  // of its first byte in `bytes_`
    };

    Result<void> add(std::shared_ptr<const ByteSource> bytes, const CheckName& check_name);
    size_t shardOf(size_t tensor) const;

    std::vector<File> files_;
    std::vector<size_t> first_ = {0};  // of each file's tensors in the list, and the end
    std::map<std::string, std::string> metadata_;
    std::shared_ptr<const ByteSource> bytes_;
};

}  // namespace vkmoe::formats
