// FileSection: a part of a file, read as a file of its own.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "host/file.h"

namespace vkmoe::formats {

// `name` stands for it in sentences. The file has the bytes.
std::shared_ptr<const ByteSource> fileSection(std::string name, std::shared_ptr<const ByteSource> file, uint64_t offset,
                                              uint64_t bytes);

}  // namespace vkmoe::formats
