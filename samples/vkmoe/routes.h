// Routes and introspection as JSON.
#pragma once

#include "samples/vkmoe/context.h"
#include "vkmoe/stack.h"

namespace vkmoe::program {

// {"top_k":k,"experts":[[selection order] per token],"gates":[[final gates] per token]}; of a stack, {"layers":[...]}.
Json routesToJson(const Stack& stack, const StackResult& result);

Json introspectionToJson(const Introspection& introspection);

}  // namespace vkmoe::program
