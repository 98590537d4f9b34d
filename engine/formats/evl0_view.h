// Evl0View: the bytes of a float32 EVL0 file whose parameters stay where they are.
#pragma once

#include "engine/formats/evl0.h"

namespace vkmoe::formats {

// The bytes that writeEvl0 makes, without a copy: `parameters` must stay, unchanged, for as long as the view is used.
// Errors: as writeEvl0.
Result<std::shared_ptr<const ByteSource>> evl0View(std::string name, const LmConfig& config,
                                                   std::span<const float> parameters);

}  // namespace vkmoe::formats
