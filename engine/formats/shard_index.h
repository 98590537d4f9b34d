// ShardIndex: what a model.safetensors.index.json says: which file holds each tensor.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/formats/name_table.h"
#include "host/file.h"
#include "host/result.h"

namespace vkmoe::formats {

constexpr uint64_t kMaxIndexBytes = uint64_t{32} << 20;  // a hundred bytes for each of 300,000 tensors

struct ShardIndex {
    NameTable tensors;
    std::vector<uint32_t> file_of;   // each tensor's file
    std::vector<std::string> files;  // plain names ending in .safetensors, in the order of their first tensors

    static Result<ShardIndex> read(const ByteSource& file);
};

}  // namespace vkmoe::formats
