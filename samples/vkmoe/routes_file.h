// The file that `run --routes-in` reads, in the form --routes writes (routes.h; one layer may stand in a list, too): as
// a stream, in memory that grows with the routes alone.
#pragma once

#include <string>
#include <vector>

#include "vkmoe/stack.h"

namespace vkmoe::program {

// For each layer, of `tokens` tokens. Errors: io, and bad_input that names the layer, the token and what is wrong with
// it. With `pool`, experts may be repeated or not exist.
Result<std::vector<Routes>> routesFromFile(const std::string& path, const Stack& stack, uint64_t tokens, bool pool);

}  // namespace vkmoe::program
