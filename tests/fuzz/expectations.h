// What the fuzzers hold every reader to; abort() is their report.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string_view>
#include <vector>

#include "engine/formats/tensor_source.h"

namespace vkmoe::fuzz {

// In an allocation of exactly its size, so that the sanitizer sees every read beyond it.
inline std::vector<std::byte> copyOf(const uint8_t* data, size_t size) {
    std::vector<std::byte> bytes(size);
    if (size != 0) std::memcpy(bytes.data(), data, size);
    return bytes;
}

inline void expect(bool holds) {
    if (!holds) std::abort();
}

// One line that starts with the file's name.
inline void checkError(const Error& error, std::string_view start = {}) {
    expect(error.code == ErrorCode::bad_input || error.code == ErrorCode::unsupported);
    expect(!error.detail.empty() && error.detail.starts_with(start));
    expect(error.detail.find('\n') == error.detail.npos);
}

inline void checkTensors(const formats::LayerSource& layer) {
    for (const formats::TensorRange& tensor : layer.tensors) {
        expect(layer.find(tensor.name) == &tensor);
        std::vector<std::byte> into(tensor.bytes);
        expect(bool(layer.bytes->read(tensor.offset, into)));
        into.resize(tensor.scales_bytes);
        expect(bool(layer.bytes->read(tensor.scales_offset, into)));
    }
}

}  // namespace vkmoe::fuzz
