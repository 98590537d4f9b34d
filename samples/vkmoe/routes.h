// Routes and introspection as JSON.
#pragma once

#include "samples/vkmoe/context.h"
#include "vkmoe/stack.h"

namespace vkmoe::program {

// {"top_k":k,"experts":[[selection order] per token],"gates":[[final gates] per token]}; of a stack, {"layers":[...]}.
Json routesToJson(const Stack& stack, const StackResult& result);

// The same back, for each layer; the error names the layer, the token and what is wrong with it. With `pool`, experts
// may be repeated or not exist.
Result<std::vector<Routes>> routesFromFile(const std::string& path, const Stack& stack, uint64_t tokens, bool pool);

Json introspectionToJson(const Introspection& introspection);

}  // namespace vkmoe::program
