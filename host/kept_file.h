// writeFileKeeping (file.h) for bytes that come in pieces.
#pragma once

#include "host/file.h"

namespace vkmoe {

// `fill` puts the bytes, front to back. An error it returns is returned, and leaves both files.
Result<void> writeFileKeeping(const std::string& path, const std::string& previous,
                              const std::function<Result<void>(const ByteSink& put)>& fill);

}  // namespace vkmoe
