// FileKind: what a file is, by its first bytes; where they are nobody's, by its name.
#pragma once

#include "host/file.h"

namespace vkmoe::formats {

enum class FileKind {
    moe0,            // a layer; also all that looks like nothing: MoE0's reader tells what the first bytes look like
    safetensors,     // a layer file, or one of several
    index,           // of several
    package,         // .evermind: a layer or a language model
    language_model,  // EVL0
    delta            // EVD0
};

Result<FileKind> kindOf(const ByteSource& file);

}  // namespace vkmoe::formats
