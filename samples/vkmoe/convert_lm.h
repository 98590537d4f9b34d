// Language models in another format: EVL0, a package, or the rows in which one differs from another (EVD0).
#pragma once

#include "samples/vkmoe/commands.h"

namespace vkmoe::program {

// Writes the model that is in the input (a package, an EVL0 file, or a delta of --base) as `format`: "evl0", "evermind",
// or "evd0", its difference from --base.
Result<void> convertLm(const Context& context, const ConvertOptions& options, const std::string& format);

}  // namespace vkmoe::program
