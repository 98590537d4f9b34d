// Safetensors: named tensors in one file, read and written.
//
// A file is a little-endian u64 N, N bytes of JSON, and the tensors' bytes. The JSON maps each name to its dtype, shape
// and place in the data, and "__metadata__" to strings. Strict beyond the format's own rules: tensors tile the data
// without hole, overlap or slack; a name, a field or a metadata key is there once; no unknown field; at most 1,048,576
// tensors of at most 6 dimensions; names of at most 256 bytes.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/formats/name_table.h"
#include "host/file.h"
#include "host/result.h"

namespace vkmoe::formats {

inline constexpr uint64_t kSafetensorsMaxHeader = 100'000'000;
inline constexpr uint64_t kSafetensorsMaxTensors = 1'048'576;
inline constexpr uint64_t kSafetensorsMaxRank = 6;
inline constexpr uint64_t kSafetensorsMaxMetadata = 65'536;         // keys of __metadata__
inline constexpr uint64_t kSafetensorsMaxOurs = uint64_t{4} << 20;  // bytes of metadata() together

// Whether a key of __metadata__ is for us, and so must mean something.
inline bool isOurKey(std::string_view key) { return key.starts_with("vkmoe.") || key.starts_with("layers."); }

// One tensor, row-major. A view: valid as long as what handed it out.
struct SafetensorsTensor {
    std::string_view name;
    std::string_view dtype;  // "F32", "U8", ...; may be one that nobody knows
    std::span<const uint64_t> shape;
    uint64_t offset = 0, bytes = 0;  // in the file
};

// Says whether a tensor of this name may be in a file: a file of a million others is then refused at its first.
using CheckName = std::function<Result<void>(std::string_view name)>;

class SafetensorsHeader {
public:
    // Reads the header and checks it against the file's length; no tensor is read. An unknown dtype is no error here:
    // its tensor's shape is then not compared with its bytes.
    static Result<SafetensorsHeader> read(const ByteSource& file, const CheckName& check_name = {});

    size_t size() const { return entries_.size(); }
    SafetensorsTensor at(size_t i) const;  // in the header's order
    std::optional<size_t> find(std::string_view name) const { return names_.find(name); }

    // Those entries of __metadata__ whose keys are ours; all of them are checked.
    const std::map<std::string, std::string>& metadata() const { return metadata_; }

private:
    friend class SafetensorsVisitor;

    struct Entry {
        uint64_t begin = 0, end = 0;  // in the data
        uint32_t shape = 0;           // first of its dimensions
        uint8_t rank = 0, dtype = 0;
    };

    Result<void> checkTiling(uint64_t data_bytes) const;
    std::span<const uint64_t> shapeOf(const Entry& entry) const;

    uint64_t data_ = 0;  // where the data start
    NameTable names_;
    std::vector<Entry> entries_;
    std::vector<uint64_t> shapes_;
    std::vector<std::string> dtypes_;
    std::map<std::string, std::string> metadata_;
};

// Bits of a value of a dtype, 0 if nobody knows it.
uint32_t safetensorsBits(std::string_view dtype);

struct TensorToWrite {
    std::string name, dtype;
    std::vector<uint64_t> shape;
    std::function<Result<void>(const ByteSink& put)> fill;  // puts exactly the bytes that dtype and shape say
};

// Writes a file that replaces `path` once it is complete. Tensors are ordered so that each starts at a multiple of its
// value's size, and of 8 bytes where all before it fill whole multiples.
// Errors: bad_input for a name that is there twice or a dtype that nobody knows; what filling and writing cause.
Result<void> writeSafetensors(const std::string& path, std::span<const TensorToWrite> tensors,
                              const std::map<std::string, std::string>& metadata);

}  // namespace vkmoe::formats
