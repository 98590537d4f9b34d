// Pictures in the terminal.
#pragma once

#include <string>

#include "vkmoe/layer.h"

namespace vkmoe::program {

// A bar for each of the first 32 experts: its share of the assignments, mean gate, output, sparsity.
std::string loadPicture(const Introspection& introspection);

// Tokens across, experts down: who went where, darker for more (many tokens share a column).
std::string routingPicture(const Routes& routes, uint32_t experts, uint32_t columns = 64);

}  // namespace vkmoe::program
