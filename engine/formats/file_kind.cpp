#include "engine/formats/file_kind.h"

#include <algorithm>
#include <array>
#include <utility>

#include "engine/formats/checked.h"
#include "engine/formats/evl0.h"
#include "engine/formats/moe0.h"
#include "engine/formats/package.h"
#include "engine/formats/row_delta.h"

namespace vkmoe::formats {

Result<FileKind> kindOf(const ByteSource& file) {
    std::array<std::byte, 9> first = {};
    const uint64_t available = std::min<uint64_t>(first.size(), file.size());
    VKMOE_CHECK(file.read(0, std::span(first).first(available)));
    const auto start = std::span(first).first(available);
    if (looksLikeMoe0(start)) return FileKind::moe0;
    if (looksLikePackage(start)) return FileKind::package;
    if (looksLikeEvl0(start)) return FileKind::language_model;
    if (looksLikeRowDelta(start)) return FileKind::delta;
    for (const auto& [ending, kind] : {std::pair(".evermind", FileKind::package),
                                       {".evl0", FileKind::language_model},
                                       {".evd0", FileKind::delta},
                                       {".json", FileKind::index},
                                       {".safetensors", FileKind::safetensors},
                                       {".moe0", FileKind::moe0}})
        if (file.name().ends_with(ending)) return kind;
    if (available == first.size() && first[8] == std::byte{'{'} && littleU64(first) <= file.size() - 8)
        return FileKind::safetensors;
    return first[0] == std::byte{'{'} ? FileKind::index : FileKind::moe0;
}

}  // namespace vkmoe::formats
